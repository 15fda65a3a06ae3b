"""Exact one-sided bounds on a share, from counts of a fixed number of trials (Clopper-Pearson).

Never a bootstrap and never a normal approximation: with no failure seen both have a width of zero.

Source: C. J. Clopper and E. S. Pearson, "The use of confidence or fiducial limits illustrated in
the case of the binomial", Biometrika 26 (1934), 404-413. The upper bound is the largest rate p at
which seeing so few failures is not rarer than alpha, P(X <= failed; trials, p) = alpha; which is
the quantile 1 - alpha of Beta(failed + 1, trials - failed).
"""

import math

from fluvial.errors import InputError
from fluvial.gate.evidence import check_counts


def bound_above(failed: int, *, trials: int, alpha: float) -> float:
    """Return a rate that the true one exceeds with probability at most `alpha`.

    `alpha` is between 0 and 1, `trials` at most a thousand million. With no trials it is 1.
    Raises InputError.
    """
    from scipy.special import betainccinv

    check_trials(failed, trials=trials, alpha=alpha)
    if failed == trials:
        return 1.0
    if failed == 0:
        return -math.expm1(math.log(alpha) / trials)
    return float(betainccinv(failed + 1, trials - failed, alpha))


def bound_below(failed: int, *, trials: int, alpha: float) -> float:
    """Return a rate that the true one falls short of with probability at most `alpha`.

    With no trials it is 0. Raises InputError.
    """
    from scipy.special import betaincinv

    check_trials(failed, trials=trials, alpha=alpha)
    if failed == 0:
        return 0.0
    if failed == trials:
        return math.exp(math.log(alpha) / trials)
    return float(betaincinv(failed, trials - failed + 1, alpha))


def check_trials(failed: int, *, trials: int, alpha: float) -> None:
    """Raise InputError for counts or an alpha that can't be."""
    check_counts(("failures", failed, "trials", trials))
    check_share(alpha, name="alpha")


def check_share(share: float, *, name: str) -> None:
    """Raise InputError unless `share` is a number between 0 and 1, the ends left out."""
    # A bool is an int to Python; NaN fails every comparison.
    if type(share) not in (int, float) or not 0 < share < 1:
        raise InputError(
            f"{name} is {share!r:.80}; a number over 0 and under 1 is due, such as 0.05", param=name
        )
