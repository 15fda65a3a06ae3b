"""Bounds that hold at every time at once: a test may be looked at, and stopped, after any trial.

A mixture martingale. Against the claim "the rate is p or more", a bet on a rate t under p
multiplies by (t/p) at each failure and (1-t)/(1-p) at each success. Whatever rate of p or more is
true, the expectation never grows; so, by Ville's inequality, the product ever reaches 1/alpha with
probability at most alpha. The bets are mixed over all t under p by the weights of Beta(1/2, 1/2)
there:

    M(p) = (1 / W(p)) * integral from 0 to p of (t/p)^k ((1-t)/(1-p))^(n-k) t^(-1/2) (1-t)^(-1/2) dt
    W(p) = integral from 0 to p of t^(-1/2) (1-t)^(-1/2) dt = 2 arcsin(sqrt(p))

with k failures in n trials. The bound is the largest p with M(p) < 1/alpha. To mix over one side
alone costs less than over all rates: 0 failures in 300 trials bound 1.3 % here, 2.1 % there, and
0.99 % when the number of trials was fixed before.

Sources: H. Robbins, "Statistical methods related to the law of the iterated logarithm", Ann. Math.
Stat. 41 (1970), 1397-1409; S. R. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Ann. Stat. 49 (2021), 1055-1080, where this is
the one-sided beta-binomial mixture.
"""

import math

from fluvial.gate.statistics import check_share, check_trials

_HALVINGS = 100


def bound_above(failed: int, *, trials: int, alpha: float) -> float:
    """Return a rate that the true one, over all times of looking, exceeds with at most `alpha`.

    With no trials it is 1. Raises InputError.
    """
    check_trials(failed, trials=trials, alpha=alpha)
    if failed == trials:
        return 1.0
    # Below failed / trials nothing speaks against a rate; from there on the evidence grows.
    low, high, limit = failed / trials, 1.0, -math.log(alpha)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if log_evidence(middle, failed=failed, trials=trials) < limit:
            low = middle
        else:
            high = middle
    return high


def bound_below(failed: int, *, trials: int, alpha: float) -> float:
    """Return a rate that the true one, over all times, falls short of with at most `alpha`."""
    return 1.0 - bound_above(trials - failed, trials=trials, alpha=alpha)


def log_evidence(rate: float, *, failed: int, trials: int) -> float:
    """Return ln M(rate): what a bettor against "the rate is this or more" has made of 1."""
    from scipy.special import betainc, betaln

    check_share(rate, name="rate")
    clean = trials - failed
    inside = float(betainc(failed + 0.5, clean + 0.5, rate))
    if inside == 0.0:
        return -math.inf
    mixed = float(betaln(failed + 0.5, clean + 0.5)) + math.log(inside)
    weight = math.log(2 * math.asin(math.sqrt(rate)))
    return mixed - weight - failed * math.log(rate) - clean * math.log1p(-rate)
