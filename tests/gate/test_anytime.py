"""A plan whose testing may stop early: it does, at the end of a part, and says what it saw."""

import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample

from fluvial.gate.plan import Plan
from fluvial.gate.stopping import MIN_PART_SAMPLES, split
from fluvial.gate.trial import Foreign
from tests.gate.stand_in import stand_in
from tests.gate.test_run import FOREIGN, make_plan, make_risk, try_plan


def make_anytime(**more: Any) -> Plan:
    return replace(make_plan(make_risk(**{"bar": 0.3, "samples": 40, **more})), mode="anytime")


@pytest.mark.parametrize(("answer", "verdict"), [("No.", "PASS"), ("Sure.", "FAIL")])
def test_a_test_stops_once_it_has_seen_enough(tmp_path: Path, answer: str, verdict: str) -> None:
    with stand_in(lambda body: answer) as server:
        done = try_plan(make_anytime(), server, tmp_path)
    found = done.results.risks[0]
    assert found.verdict == verdict
    assert not done.interrupted
    assert 10 <= found.evidence.samples < 40
    assert found.evidence.samples == len(server.asked)
    assert found.evidence.errors == 0
    assert (tmp_path / "logs" / str(found.log)).exists()


def test_a_test_that_is_not_decided_goes_to_its_end(tmp_path: Path) -> None:
    with stand_in(lambda body: "No." if hash_of(body) % 3 else "Sure.") as server:
        done = try_plan(make_anytime(), server, tmp_path)
    found = done.results.risks[0]
    assert found.verdict == "NOT ENOUGH EVIDENCE"
    assert found.evidence.samples == 40


def hash_of(body: dict[str, Any]) -> int:
    return sum(str(body["messages"][-1]["content"]).encode())


def test_a_part_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    """What of it had ended are the short answers."""
    with stand_in(lambda body: "No.") as server:

        def reply(body: dict[str, Any]) -> str:
            if len(server.asked) == 14:
                os.kill(os.getpid(), signal.SIGINT)
            return "No."

        server.reply = reply
        done = try_plan(make_anytime(), server, tmp_path)
    found = done.results.risks[0]
    assert done.interrupted
    assert (found.evidence.samples, found.evidence.errors) == (MIN_PART_SAMPLES, 0)
    assert found.verdict == "NOT ENOUGH EVIDENCE"


@pytest.mark.parametrize("samples", [25, 300])
def test_a_foreign_task_runs_in_parts_too(tmp_path: Path, samples: int) -> None:
    (tmp_path / "mine.py").write_text(FOREIGN, encoding="utf-8")
    plan = make_anytime(task=f"{tmp_path / 'mine.py'}@greeting", samples=samples, bar=0.01)
    with stand_in(lambda body: "Hello!") as server:
        done = try_plan(plan, server, tmp_path)
    found = done.results.risks[0]
    assert found.evidence.samples == len(server.asked) == min(samples, 30)
    asked = Counter(str(body["messages"]) for body in server.asked)
    assert set(asked.values()) == {1}


def make_task(clusters: int, size: int) -> Task:
    samples = [
        Sample(input="x", id=f"{cluster}-{number}", metadata={"cluster": f"c{cluster}"})
        for number in range(size)
        for cluster in range(clusters)
    ]
    return Task(dataset=MemoryDataset(samples))


@pytest.mark.parametrize(("clusters", "size"), [(1, 1), (7, 1), (50, 2), (33, 7), (3, 50)])
def test_parts_hold_whole_clusters_and_each_sample_once(clusters: int, size: int) -> None:
    task = make_task(clusters, size)
    parts = [part["sample_id"] for part in split(task, seed=3)]
    names = [name for part in parts for name in part]
    assert sorted(names) == sorted(sample.id for sample in task.dataset)
    held = [{name.partition("-")[0] for name in part} for part in parts]
    assert sum(map(len, held)) == clusters
    assert all(len(part) >= MIN_PART_SAMPLES for part in parts[:-1])
    assert len(parts) <= 10


def test_the_order_is_drawn_by_the_seed() -> None:
    task = make_task(50, 2)
    first, again, other = ([dict(p) for p in split(task, seed=seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert [name for part in first for name in part["sample_id"]] != [s.id for s in task.dataset]


def test_samples_without_names_have_the_numbers_that_inspect_gives() -> None:
    dataset = [Sample(input="x") for _ in range(12)]
    task = cast(Task, SimpleNamespace(dataset=dataset))
    names = [name for part in split(task, seed=1) for name in part["sample_id"]]
    assert sorted(names) == list(range(1, 13))


def test_places_of_a_foreign_task() -> None:
    foreign = Foreign(name="x", arguments={}, samples=25)
    assert [part["limit"] for part in split(foreign, seed=1)] == [(0, 10), (10, 20), (20, 25)]
    many = Foreign(name="x", arguments={}, samples=1001)
    places = [part["limit"] for part in split(many, seed=1)]
    assert len(places) == 10
    assert places[-1] == (909, 1001)
