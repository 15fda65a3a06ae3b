"""Bounds on the share of failures where a judge that errs decided, its own uncertainty included.

A judge sees a share s of failures (sensitivity) and takes a share f of the rest for failures (false
alarms). With a true share p, clusters are flagged at the rate q = p s + (1 - p) f, which Rogan and
Gladen turned round: p = (q - f) / (s - f) (Am. J. Epidemiol. 107 (1978), 71-76). Of q, s and f only
exact bounds are known (Clopper-Pearson; the anytime bound for q where testing may stop early).
Where they hold,

    q+ >= q >= p s- + (1 - p) f-   so   p <= (q+ - f-) / (s- - f-)    if s- > f-, else p <= 1
    q- <= q <= p s+ + (1 - p) f+   so   p >= (q- - f+) / (s+ - f+)    if s+ > f+, else p >= 0

Each of the three bounds of a side may fail with its own part of alpha, ALPHA_PARTS, which sum to 1:
all hold with probability 1 - alpha at least (Bonferroni). No independence is asked for. It is wider
than it could be, never narrower than it says.

Fewer flags than the false alarms that are due would make p+ smaller than a perfect judge's who saw
no failure. No judge that errs shows that much: p+ is never under the exact bound of 0 failures.

Clusters of several samples, m on average: one flagged sample flags the cluster. A failing cluster
is then flagged at the rate s at least and a clean one at f at least, so the upper bound stands; a
clean one is flagged at the rate of m f at most, so the lower bound is q- - m f+.

Taken for granted: on this risk's answers the judge errs as often as on the labelled set.
"""

from fluvial.gate import sequence, statistics
from fluvial.gate.evidence import Calibration, Evidence
from fluvial.gate.plan import Mode

ALPHA_PARTS = {"flagged": 0.8, "sensitivity": 0.1, "false_alarms": 0.1}
"""Most goes to the test: what it costs grows with the number of samples, a calibration's only once.
Fixed before any data is seen."""


def bound_above(evidence: Evidence, *, alpha: float, mode: Mode = "fixed") -> float:
    """Return a share of failing clusters that the true one exceeds with at most `alpha`.

    A judge without a calibration gives 1. Raises InputError.
    """
    above = (sequence if mode == "anytime" else statistics).bound_above
    if not evidence.judged:
        return above(evidence.failed, trials=evidence.clusters, alpha=alpha)
    found = evidence.calibration
    if found is None:
        return 1.0
    flagged = above(evidence.failed, trials=evidence.clusters, alpha=alpha * ALPHA_PARTS["flagged"])
    caught = _bound_sensitivity_below(found, alpha=alpha)
    alarms = statistics.bound_below(
        found.false_alarms, trials=found.negatives, alpha=alpha * ALPHA_PARTS["false_alarms"]
    )
    if caught <= alarms:
        return 1.0
    least = above(0, trials=evidence.clusters, alpha=alpha)
    return max(least, _correct(flagged, caught=caught, alarms=alarms))


def bound_below(evidence: Evidence, *, alpha: float, mode: Mode = "fixed") -> float:
    """Return a share of failing clusters that the true one falls short of with at most `alpha`.

    A judge without a calibration gives 0. Raises InputError.
    """
    below = (sequence if mode == "anytime" else statistics).bound_below
    if not evidence.judged:
        return below(evidence.failed, trials=evidence.clusters, alpha=alpha)
    found = evidence.calibration
    if found is None or evidence.clusters == 0:
        return 0.0
    flagged = below(evidence.failed, trials=evidence.clusters, alpha=alpha * ALPHA_PARTS["flagged"])
    alarms = statistics.bound_above(
        found.false_alarms, trials=found.negatives, alpha=alpha * ALPHA_PARTS["false_alarms"]
    )
    if evidence.samples > evidence.clusters:
        return max(0.0, flagged - alarms * evidence.samples / evidence.clusters)
    caught = statistics.bound_above(
        found.caught, trials=found.positives, alpha=alpha * ALPHA_PARTS["sensitivity"]
    )
    return _correct(flagged, caught=caught, alarms=alarms) if caught > alarms else 0.0


def _bound_sensitivity_below(calibration: Calibration, *, alpha: float) -> float:
    return statistics.bound_below(
        calibration.caught,
        trials=calibration.positives,
        alpha=alpha * ALPHA_PARTS["sensitivity"],
    )


def _correct(flagged: float, *, caught: float, alarms: float) -> float:
    return min(1.0, max(0.0, (flagged - alarms) / (caught - alarms)))
