"""How much testing a bar needs: failures that still pass, power, further clean trials.

All in failures: a floor of 90 % of successes is a limit of 10 % of failures (`limit_failures`).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from fluvial.errors import InputError
from fluvial.gate import correction
from fluvial.gate.document import MAX_COUNT
from fluvial.gate.evidence import Calibration, Evidence, check_counts
from fluvial.gate.plan import Direction, Mode
from fluvial.gate.statistics import check_share

MAX_SEARCHED_TRIALS = 10_000_000
"""Sample sizes over this are not looked for: nobody runs them."""

_COUNTED_ONE_BY_ONE = 64


@dataclass(frozen=True, kw_only=True)
class Design:
    """A test before it is run: when it passes. `limit` is the greatest share of failures."""

    limit: float
    alpha: float
    mode: Mode = "fixed"
    judged: bool = False
    calibration: Calibration | None = None

    def passes(self, failed: int, *, trials: int) -> bool:
        """Tell whether so many failing clusters in so many pass."""
        seen = Evidence(
            samples=trials,
            clusters=trials,
            failed=failed,
            judged=self.judged,
            calibration=self.calibration,
        )
        return correction.bound_above(seen, alpha=self.alpha, mode=self.mode) <= self.limit


def limit_failures(bar: float, *, direction: Direction) -> float:
    """Return the greatest share of failures that meets a bar. Raises InputError."""
    check_share(bar, name="bar")
    return bar if direction == "at_most" else 1 - bar


def count_allowed(test: Design, *, trials: int) -> int | None:
    """Return the most failures in `trials` that pass; None where not even 0 does."""
    check_counts(("trials", trials, "limit", MAX_COUNT))
    if not test.passes(0, trials=trials):
        return None
    first = find_first(lambda count: not test.passes(count, trials=trials), high=trials)
    return trials if first is None else first - 1


def compute_power(test: Design, *, trials: int, share: float) -> float:
    """Return the probability to pass where the true share of failures is `share`.

    With a judge, at the rates of its calibration as they were seen. In the anytime mode, that of a
    pass at the end: stopping early adds to it.
    """
    from scipy.special import bdtr

    if not 0 <= share <= 1:
        raise InputError(f"a share of {share!r} is none; it is in 0 to 1", param="share")
    allowed = count_allowed(test, trials=trials)
    if allowed is None:
        return 0.0
    return float(bdtr(allowed, trials, _rate_flagged(test, share=share)))


def find_trials(test: Design, *, share: float, power: float) -> int | None:
    """Return the fewest trials that pass with this power; None where none up to the limit do.

    Beyond 64 failures allowed, power is taken to grow with every further one; it does but for
    rounding.
    """
    check_share(power, name="power")
    if _misses(test, share=share):
        return None

    def is_enough(allowed: int) -> bool:
        # Power has its peaks where one failure more is just allowed.
        trials = find_fewest(test, failed=allowed)
        return trials is None or compute_power(test, trials=trials, share=share) >= power

    few = next((allowed for allowed in range(_COUNTED_ONE_BY_ONE) if is_enough(allowed)), None)
    allowed = few
    if few is None:
        allowed = find_first(is_enough, low=_COUNTED_ONE_BY_ONE, high=MAX_SEARCHED_TRIALS)
    return None if allowed is None else find_fewest(test, failed=allowed)


def find_fewest(test: Design, *, failed: int, at_least: int = 1) -> int | None:
    """Return the fewest trials with which `failed` failures pass, None where none do."""
    low = max(at_least, failed, 1)
    return find_first(
        lambda trials: test.passes(failed, trials=trials), low=low, high=MAX_SEARCHED_TRIALS
    )


def count_further(evidence: Evidence, *, limit: float, alpha: float, mode: Mode) -> int | None:
    """Return how many more clean clusters would make a PASS; None where no number would."""
    known = replace(evidence, errors=0)
    test = Design(
        limit=limit,
        alpha=alpha,
        mode=mode,
        judged=known.judged,
        calibration=known.calibration,
    )
    start = max(known.clusters, 1)
    total = find_first(
        lambda trials: test.passes(known.failed, trials=trials), low=start, high=MAX_COUNT
    )
    return None if total is None else total - known.clusters


def find_first(holds: Callable[[int], bool], *, low: int = 0, high: int) -> int | None:
    """Return the first number in low to high for which `holds`; once it holds it goes on to."""
    if low > high or not holds(high):
        return None
    step = 1
    while low + step < high and not holds(low + step):
        step *= 2
    first, last = (low if step == 1 else low + step // 2), min(low + step, high)
    while first < last:
        middle = (first + last) // 2
        if holds(middle):
            last = middle
        else:
            first = middle + 1
    return first


def _misses(test: Design, *, share: float) -> bool:
    """Tell whether not even the largest test would pass, were it to see just what is expected."""
    expected = round(_rate_flagged(test, share=share) * MAX_SEARCHED_TRIALS)
    return not test.passes(expected, trials=MAX_SEARCHED_TRIALS)


def _rate_flagged(test: Design, *, share: float) -> float:
    found = test.calibration
    if not test.judged or found is None or not found.positives or not found.negatives:
        return share
    caught, alarms = found.caught / found.positives, found.false_alarms / found.negatives
    return share * caught + (1 - share) * alarms
