"""From Inspect's samples to counts."""

from typing import Any

import pytest
from inspect_ai.log import EvalError, EvalSample, EvalSampleLimit
from inspect_ai.scorer import Score

from fluvial.gate.evidence import Calibration
from fluvial.gate.tally import count, find_trouble, hash_samples, read_outcome

BROKEN = EvalError(message="it broke", traceback="", traceback_ansi="")


def make(name: str, value: Any = "C", *, cluster: str | None = None, **more: Any) -> EvalSample:
    metadata = {} if cluster is None else {"cluster": cluster}
    scores = None if value is None else {"a": Score(value=value)}
    asked: dict[str, Any] = {"id": name, "epoch": 1, "input": f"ask {name}", "target": "t"} | more
    return EvalSample(**asked, scores=scores, metadata=metadata)


@pytest.mark.parametrize(
    ("value", "outcome"),
    [("C", True), ("I", False), (1, True), (0, False), (1.0, True), (True, True), (False, False)],
)
def test_a_score_is_success_or_failure(value: Any, outcome: bool) -> None:
    assert read_outcome(make("a", value)) is outcome


@pytest.mark.parametrize("value", ["P", "N", 0.5, float("nan"), "yes", [1], {"x": 1}, None])
def test_any_other_score_is_none(value: Any) -> None:
    sample = make("a", value)
    assert read_outcome(sample) is None
    assert count([sample], planned=1).errors == 1


def test_all_scores_of_a_sample_must_be_good() -> None:
    sample = make("a")
    sample.scores = {"a": Score(value="C"), "b": Score(value="I")}
    assert read_outcome(sample) is False


def test_a_cluster_fails_with_any_of_its_samples() -> None:
    found = count(
        [make("1", "I", cluster="x"), make("2", "C", cluster="x"), make("3", cluster="y")],
        planned=3,
    )
    assert (found.samples, found.clusters, found.failed, found.errors) == (3, 2, 1, 0)


def test_a_cluster_with_a_broken_sample_did_not_end() -> None:
    found = count(
        [make("1", "I", cluster="x"), make("2", None, cluster="x", error=BROKEN), make("3")],
        planned=3,
    )
    assert (found.samples, found.clusters, found.failed, found.errors) == (2, 1, 0, 1)


def test_epochs_of_a_sample_are_one_cluster() -> None:
    found = count([make("1", "C"), make("1", "I")], planned=2)
    assert (found.clusters, found.failed) == (1, 1)


def test_a_question_that_stands_twice_is_one_cluster() -> None:
    twice = [make(str(number), input="the same") for number in range(300)]
    assert count(twice, planned=300).clusters == 1
    other = make("other", input="the same", choices=["a", "b"])
    assert count([*twice, other], planned=301).clusters == 2


def test_what_was_cut_off_or_never_ran_is_missing() -> None:
    cut = make("1", "C", limit=EvalSampleLimit(type="time", limit=1))
    found = count([cut, make("2")], planned=5)
    assert (found.samples, found.clusters, found.errors) == (1, 1, 4)


def test_the_judge_goes_along() -> None:
    record = Calibration(positives=2, caught=1, negatives=2, false_alarms=0)
    found = count([], planned=3, judged=True, calibration=record)
    assert found.judged
    assert found.calibration == record
    assert found.errors == 3


def test_the_digest_is_of_the_questions_not_of_the_answers() -> None:
    one, other = [make("1"), make("2")], [make("2", "I"), make("1", cluster="x")]
    assert hash_samples(one) == hash_samples(other)
    other[0].target = "else"
    assert hash_samples(one) != hash_samples(other)


def test_the_most_frequent_reason_is_told() -> None:
    broken = [make(str(number), None, error=BROKEN) for number in range(3)]
    rare = EvalError(message="rare", traceback="", traceback_ansi="")
    assert find_trouble([*broken, make("9", None, error=rare)]) == ("it broke", 3)
    assert find_trouble([make("1")]) is None
