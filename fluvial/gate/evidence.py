"""What a test of one risk saw, as counts: all that a verdict is made of, but for the bar."""

from dataclasses import dataclass

from fluvial.errors import InputError
from fluvial.gate.document import MAX_COUNT, STRICT, Count


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often a judge agrees with people, as counts of a labelled set it was not made from.

    Of `positives` failures by people's labels the judge saw `caught`; of `negatives` it took
    `false_alarms` for failures.
    """

    __pydantic_config__ = STRICT

    positives: Count
    caught: Count
    negatives: Count
    false_alarms: Count


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The outcome of one risk's samples.

    Samples that are alike (the same topic, the same seed) are one cluster; a cluster fails when any
    of its samples does. `clusters` are those whose samples all came to an end, `failed` the failed
    among them. `errors` counts samples that broke or were never run. `judged` tells whether a judge
    that can err decided; `calibration` is then its record, None where it has none.
    """

    __pydantic_config__ = STRICT

    samples: Count
    clusters: Count
    failed: Count
    errors: Count = 0
    judged: bool = False
    calibration: Calibration | None = None


def check_evidence(evidence: Evidence) -> None:
    """Raise InputError for counts that can't be: negative, huge, or parts greater than wholes."""
    found = evidence.calibration
    pairs = [
        ("failed", evidence.failed, "clusters", evidence.clusters),
        ("clusters", evidence.clusters, "samples", evidence.samples),
    ]
    if found is not None:
        pairs += [
            ("caught", found.caught, "positives", found.positives),
            ("false_alarms", found.false_alarms, "negatives", found.negatives),
        ]
    check_counts(("errors", evidence.errors, "counts", MAX_COUNT), *pairs)


def check_counts(*pairs: tuple[str, int, str, int]) -> None:
    """Check parts of wholes, each as (part's name, part, whole's name, whole). InputError."""
    for part_name, part, whole_name, whole in pairs:
        for name, count in ((whole_name, whole), (part_name, part)):
            if type(count) is not int or not 0 <= count <= MAX_COUNT:
                raise InputError(
                    f"{name} is {count!r:.80}; a whole number from 0 to {MAX_COUNT} is due",
                    param=name,
                )
        if part > whole:
            raise InputError(
                f"{part_name} is {part}, more than {whole_name}, {whole}", param=part_name
            )
