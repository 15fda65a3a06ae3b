"""Results as files, and the digest of what was seen."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluvial.errors import ConflictError, InputError, TooLargeError
from fluvial.gate import result
from fluvial.gate.evidence import Calibration
from fluvial.gate.result import Adaptation
from tests.gate.made import change_risk, make_evidence, make_judged_plan, make_plan, make_results


def test_results_survive_their_file(tmp_path: Path) -> None:
    results = make_results(make_judged_plan(), make_evidence(80, 2))
    result.save(results, tmp_path / "results.json")
    assert result.load(tmp_path / "results.json") == results


def test_the_digest_is_of_what_was_seen_and_not_of_when() -> None:
    results = make_results(make_plan())
    same = change_risk(replace(results, started_at=1.0), log="other.eval", reason="others")
    assert result.digest(same) == result.digest(results)
    others: list[Any] = [
        change_risk(results, evidence=make_evidence(60, 1)),
        change_risk(results, data_sha256="f" * 64),
        replace(results, subjects={"weights": "f" * 64}),
        replace(results, plan_sha256="f" * 64),
        replace(results, adaptation=Adaptation(drift_budget=9.0)),
    ]
    digests = {result.digest(each) for each in others}
    assert len(digests) == len(others)
    assert result.digest(results) not in digests


def test_a_changed_plan_is_noticed() -> None:
    results = make_results(make_plan())
    result.check_plan(results)
    with pytest.raises(ConflictError, match="it was changed") as caught:
        result.check_plan(replace(results, plan=make_plan(seed=8)))
    assert caught.value.code == "plan_changed"


@pytest.mark.parametrize(
    "change",
    [
        {"subjects": {"weights": "not a hash"}},
        {"subjects": {f"file {index}": "a" * 64 for index in range(257)}},
        {"plan_sha256": "A" * 64},
        {"ended_at": 1.0},
        {"extra": 1},
    ],
)
def test_wrong_fields_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        result.read(result.view(make_results(make_plan())) | change)


@pytest.mark.parametrize(
    "evidence",
    [
        make_evidence(5, 6),
        make_evidence(5, 0, samples=4),
        make_evidence(
            5, calibration=Calibration(positives=1, caught=2, negatives=0, false_alarms=0)
        ),
    ],
)
def test_parts_greater_than_wholes_are_refused(evidence: Any) -> None:
    results = change_risk(make_results(make_plan()), evidence=evidence)
    with pytest.raises(InputError, match="more than"):
        result.read(result.view(results))


def test_a_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "results.json").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(TooLargeError):
        result.load(tmp_path / "results.json")
