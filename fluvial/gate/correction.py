"""Bounds on the share of failures where a judge that errs decided, its own uncertainty included.

A judge sees a share s of failures (sensitivity) and takes a share f of the rest for failures (false
alarms). With a true share p, clusters are flagged at the rate q = p s + (1 - p) f, which Rogan and
Gladen turned round: p = (q - f) / (s - f) (Am. J. Epidemiol. 107 (1978), 71-76). Of q, s and f only
exact bounds are known (Clopper-Pearson; the anytime bound for q where testing may stop early).
Where they hold,

    q+ >= q >= p s-                so   p <= q+ / s-                  if s- > 0,  else p <= 1
    q- <= q <= p s+ + (1 - p) f+   so   p >= (q- - f+) / (s+ - f+)    if s+ > f+, else p >= 0

No false alarms are taken off on the upper side, though Rogan and Gladen would: a judge may give 40
in 127 on answers that are hard to judge, which labelled sets are full of, and none on plain
refusals. To take off what was never there would let a model pass that fails at three times its bar.
So a PASS rests on the sensitivity alone, and false alarms can only cost one.

Each of the bounds of a side may fail with its own part of alpha, ALPHA_PARTS, which sum to 1: all
hold with probability 1 - alpha at least (Bonferroni). No independence is asked for. It is wider
than it could be, never narrower than it says. A judge that sees no more failures than it gives
false alarms may be guessing, and shows nothing: p+ is 1.

Clusters of several samples, m on average: one flagged sample flags the cluster. A failing cluster
is then flagged at the rate s at least and a clean one at f at least, so the upper bound stands; a
clean one is flagged at the rate of m f at most, so the lower bound is q- - m f+.

Taken for granted: on this risk's answers the judge sees failures as often as on the labelled set,
and, for a FAIL, gives no more false alarms.
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
    return min(1.0, flagged / caught)


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
