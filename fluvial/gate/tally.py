"""From an Inspect log to counts: which samples came to an end, and which clusters failed.

A sample whose score is 1 or "C" went well, 0 or "I" failed; anything else is no answer to the
question, and counts as an error, as do samples that broke, were cut off by a limit, or never ran.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from fluvial.gate.digest import hash_json
from fluvial.gate.evidence import Calibration, Evidence

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.scorer import Score

_OUTCOMES: Mapping[object, bool] = {"C": True, "I": False, 1: True, 0: False}


def count(
    samples: Iterable["EvalSample"],
    *,
    planned: int,
    judged: bool = False,
    calibration: Calibration | None = None,
) -> Evidence:
    """Return the evidence of one risk; `planned` is how many samples the plan asks for.

    A sample's cluster is `cluster` in its metadata, else all samples and epochs that ask the same
    and want the same answer: a question that stands twice in a data set is one trial.
    """
    failed: dict[str, list[bool | None]] = defaultdict(list)
    for sample in samples:
        well = read_outcome(sample)
        failed[_name_cluster(sample)].append(None if well is None else not well)
    outcomes = [each for cluster in failed.values() for each in cluster]
    ended = [cluster for cluster in failed.values() if None not in cluster]
    scored = sum(each is not None for each in outcomes)
    return Evidence(
        samples=scored,
        clusters=len(ended),
        failed=sum(any(cluster) for cluster in ended),
        errors=max(len(outcomes), planned) - scored,
        judged=judged,
        calibration=calibration,
    )


def read_outcome(sample: "EvalSample") -> bool | None:
    """Tell whether a sample went well, by all of its scores; None where that is not known."""
    if sample.error is not None or sample.limit is not None or not sample.scores:
        return None
    found = [_read_score(score) for score in sample.scores.values()]
    return None if None in found else all(found)


def hash_samples(samples: Iterable["EvalSample"]) -> str:
    """Return the digest of what was asked: each sample's name, input, target and metadata.

    What a solver wrote into the metadata is left out: the digest is of the question.
    """
    return hash_json(sorted({_view(sample) for sample in samples}))


def find_trouble(samples: Iterable["EvalSample"]) -> tuple[str, int] | None:
    """Return the most frequent reason why samples broke, and how many had it; None if none did."""
    reasons = [sample.error.message for sample in samples if sample.error is not None]
    return Counter(reasons).most_common(1)[0] if reasons else None


def _read_score(score: "Score") -> bool | None:
    value: Any = score.value
    return _OUTCOMES.get(value) if isinstance(value, str | int | float | bool) else None


def _name_cluster(sample: "EvalSample") -> str:
    given = (sample.metadata or {}).get("cluster")
    if given is not None:
        return f"given {given}"
    return json.dumps([_view_input(sample), sample.choices, sample.target], ensure_ascii=False)


def _view(sample: "EvalSample") -> str:
    return json.dumps([sample.id, _view_input(sample), sample.target], ensure_ascii=False)


def _view_input(sample: "EvalSample") -> Any:
    if isinstance(sample.input, str):
        return sample.input
    return [[message.role, message.text] for message in sample.input]
