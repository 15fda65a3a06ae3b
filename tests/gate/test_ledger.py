"""Attempts on record: alpha is spent, and neither plans nor results change afterwards."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluvial.config import Settings
from fluvial.errors import ConflictError, InputError, StorageError
from fluvial.gate.ledger import Ledger, find_ledger, open_ledger
from fluvial.gate.plan import digest
from fluvial.gate.spending import MAX_ATTEMPTS, find_alpha, spend_alpha
from fluvial.store.audit_check import read_entries
from tests.gate.made import SUBJECTS, make_evidence, make_plan, make_results


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "gate" / "attempts.jsonl")


def run(ledger: Ledger, plan: Any, failed: int = 0) -> None:
    ledger.enter(plan)
    ledger.start(plan, subjects=SUBJECTS)
    ledger.end(make_results(plan, make_evidence(60, failed)))


def test_alpha_is_spent_and_never_more_than_there_is() -> None:
    parts = [spend_alpha(0.05, attempt=number) for number in range(1, MAX_ATTEMPTS + 1)]
    assert parts[0] == pytest.approx(0.0304, abs=1e-4)
    assert parts == sorted(parts, reverse=True)
    assert sum(parts) < 0.05
    assert sum(parts) == pytest.approx(0.05, rel=1e-3)
    assert find_alpha(make_plan(attempt=2)) == pytest.approx(0.05 * 6 / (math.pi**2 * 4))


@pytest.mark.parametrize("attempt", [0, -1, MAX_ATTEMPTS + 1, 1.0, True, "1", 10**400])
def test_attempts_that_are_none_are_refused(attempt: Any) -> None:
    with pytest.raises(InputError, match="attempt"):
        spend_alpha(0.05, attempt=attempt)


def test_attempts_of_a_lineage_follow_each_other(ledger: Ledger) -> None:
    assert ledger.next_attempt("tiny") == 1
    run(ledger, make_plan())
    assert ledger.next_attempt("tiny") == 2
    assert ledger.next_attempt("other") == 1
    run(ledger, make_plan(attempt=2))
    run(ledger, make_plan(lineage="other"))
    assert [ledger.next_attempt(name) for name in ("tiny", "other")] == [3, 2]


@pytest.mark.parametrize("attempt", [1, 3])
def test_an_attempt_that_is_not_the_next_is_refused(ledger: Ledger, attempt: int) -> None:
    run(ledger, make_plan())
    with pytest.raises(ConflictError, match="and 2 is next") as caught:
        ledger.enter(make_plan(attempt=attempt, seed=9))
    assert caught.value.code == "wrong_attempt"


def test_of_two_plans_for_one_attempt_only_one_can_be_run(ledger: Ledger) -> None:
    first, second = make_plan(), make_plan(seed=8)
    ledger.enter(first)
    ledger.enter(second)
    ledger.start(second, subjects=SUBJECTS)
    with pytest.raises(ConflictError, match="2 is next"):
        ledger.start(first, subjects=SUBJECTS)


def test_a_plan_that_changed_since_it_was_written_is_refused(ledger: Ledger) -> None:
    ledger.enter(make_plan())
    with pytest.raises(ConflictError, match="changed after it was written") as caught:
        ledger.start(make_plan(confidence=0.9), subjects=SUBJECTS)
    assert caught.value.code == "plan_changed"
    with pytest.raises(ConflictError, match="not on record"):
        ledger.start(make_plan(lineage="other"), subjects=SUBJECTS)
    assert [entry.event for entry in ledger.list_entries()] == ["planned"]


def test_the_same_results_again_are_the_same_attempt(ledger: Ledger) -> None:
    plan = make_plan()
    run(ledger, plan)
    before = ledger.path.read_bytes()
    ledger.start(plan, subjects=SUBJECTS)
    ledger.end(make_results(plan, make_evidence(60)))
    assert ledger.path.read_bytes() == before


def test_other_results_of_a_plan_that_ended_are_refused(ledger: Ledger) -> None:
    plan = make_plan()
    run(ledger, plan, failed=9)
    better = make_results(plan, make_evidence(60))
    for act in (ledger.end, ledger.check):
        with pytest.raises(ConflictError, match="ended with other results") as caught:
            act(better)
        assert caught.value.code == "other_results"
    ledger.check(make_results(plan, make_evidence(60, 9)))


def test_a_run_that_broke_off_may_be_run_again(ledger: Ledger) -> None:
    plan = make_plan()
    ledger.enter(plan)
    ledger.start(plan, subjects=SUBJECTS)
    ledger.start(plan, subjects=SUBJECTS)
    with pytest.raises(ConflictError, match="no finished run"):
        ledger.check(make_results(plan))
    ledger.end(make_results(plan))
    ledger.check(make_results(plan))


def test_a_plan_is_run_again_on_nothing_but_what_it_was_run_on(ledger: Ledger) -> None:
    plan, other = make_plan(), SUBJECTS | {"guard": "e" * 64}
    ledger.enter(plan)
    ledger.start(plan, subjects=SUBJECTS)
    better = replace(make_results(plan), subjects=other)
    for act in (lambda: ledger.start(plan, subjects=other), lambda: ledger.end(better)):
        with pytest.raises(ConflictError, match="begun on something else") as caught:
            act()
        assert caught.value.code == "other_subjects"
    assert [entry.event for entry in ledger.list_entries()] == ["planned", "started"]


def test_results_of_a_plan_that_was_never_started_are_refused(ledger: Ledger) -> None:
    ledger.enter(make_plan())
    with pytest.raises(ConflictError, match="no run of this plan"):
        ledger.end(make_results(make_plan()))
    with pytest.raises(ConflictError, match="it was changed"):
        ledger.end(replace(make_results(make_plan()), plan=make_plan(seed=8)))


def test_a_line_that_was_changed_or_taken_out_is_noticed(ledger: Ledger) -> None:
    run(ledger, make_plan())
    run(ledger, make_plan(attempt=2))
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    changed = json.loads(lines[1]) | {"at": 1.0}
    hostile = {
        "changed": [lines[0], json.dumps(changed).encode() + b"\n", *lines[2:]],
        "taken out": lines[1:],
        "swapped": [lines[1], lines[0], *lines[2:]],
        "twice": [lines[0], *lines],
        "cut": [*lines[:-1], lines[-1][:-9]],
        "nothing": [b"\n", *lines],
        "other": [b"[]\n", *lines],
        "deep": [b"[" * 100_000 + b"\n"],
    }
    for name, made in hostile.items():
        ledger.path.write_bytes(b"".join(made))
        with pytest.raises(InputError):
            ledger.next_attempt("tiny")
        with pytest.raises(InputError):
            ledger.enter(make_plan(attempt=3))
        assert ledger.path.read_bytes() == b"".join(made), name


def test_many_at_once_make_one_chain(ledger: Ledger) -> None:
    names = [f"line {index}" for index in range(12)]
    threads = [
        threading.Thread(target=run, args=(Ledger(ledger.path), make_plan(lineage=name)))
        for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ledger.list_entries()) == 3 * len(names)
    assert {ledger.next_attempt(name) for name in names} == {2}


def test_a_folder_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Ledger(tmp_path / "file" / "attempts.jsonl").enter(make_plan())


def test_attempts_are_on_record_in_the_audit_log_too(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    run(open_ledger(settings), make_plan(), failed=60)
    entries = [e for e in read_entries(tmp_path) if e.kind.startswith("gate.")]
    assert [entry.kind for entry in entries] == ["gate.planned", "gate.started", "gate.ended"]
    assert {entry.subject for entry in entries} == {digest(make_plan())}
    assert entries[0].detail == {"lineage": "tiny", "attempt": 1}
    assert entries[2].detail["FAIL"] == 1
    assert len(str(entries[2].detail["results_sha256"])) == 64
    assert find_ledger(tmp_path).exists()
