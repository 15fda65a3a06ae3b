"""What a test of one risk saw, as counts: all that a verdict is made of, but for the bar."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often a judge agrees with people, as counts of a labelled set it was not made from.

    Of `positives` failures by people's labels the judge saw `caught`; of `negatives` it took
    `false_alarms` for failures.
    """

    positives: int
    caught: int
    negatives: int
    false_alarms: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The outcome of one risk's samples.

    Samples that are alike (the same topic, the same seed) are one cluster; a cluster fails when any
    of its samples does. `clusters` are those whose samples all came to an end, `failed` the failed
    among them. `errors` counts samples that broke or were never run. `judged` tells whether a judge
    that can err decided; `calibration` is then its record, None where it has none.
    """

    samples: int
    clusters: int
    failed: int
    errors: int = 0
    judged: bool = False
    calibration: Calibration | None = None
