"""`fluvial bench profile`: the trace is read right, and the document is what the command writes."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluvial.bench import profile as bench
from fluvial.bench.profile import BETWEEN, OUTSIDE, SCENARIOS, WHOLE, Profile, read_trace
from fluvial.bench.report import BEGIN, END, parse, read, render, update
from fluvial.errors import InputError, ModelError
from tests.bench.double import SuccessorDecoder

DOCUMENT = Path(__file__).parents[2] / "docs" / "profile.md"
PROFILE = Profile(
    model="tiny",
    place="a processor (avx2), threads: 2, onnxruntime 1.0",
    times_us={
        "1 token": {"Linear": 1200.0, "Norm": 100.0, BETWEEN: 10.0, OUTSIDE: 90.0, WHOLE: 1400.0},
        "8 sequences": {"Linear": 5000.0, BETWEEN: 0.0, OUTSIDE: 9.0, WHOLE: 5009.0},
    },
)


def make_event(name: str, *, ts: int, dur: int, op: str | None = None) -> dict[str, Any]:
    args = {"op_name": op} if op else {}
    return {"cat": "Node" if op else "Session", "name": name, "ts": ts, "dur": dur, "args": args}


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    events = [make_event("model_loading_uri", ts=0, dur=5)]
    for run in range(3):
        ts = 100 * (run + 1)
        events.append(make_event("a_kernel_time", ts=ts + 1, dur=10 + run, op="Linear"))
        events.append(make_event("b_kernel_time", ts=ts + 20, dur=20, op="Linear"))
        events.append(make_event("c_kernel_time", ts=ts + 50, dur=5, op="Norm"))
        events.append(make_event("model_run", ts=ts, dur=60))
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(events))
    return path


def test_a_trace_gives_medians_of_the_last_runs(trace: Path) -> None:
    operators, run_us = read_trace(trace, steps=2)
    assert operators == {"Linear": 31.5, "Norm": 5}
    assert list(operators) == ["Linear", "Norm"], "the longest first"
    assert run_us == 60


def test_a_trace_of_too_few_runs_is_refused(trace: Path) -> None:
    with pytest.raises(ModelError, match="holds 3 steps, 4 are needed"):
        read_trace(trace, steps=4)


def test_a_profile_measures_each_kind_of_step(
    trace: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SuccessorDecoder] = []

    def open_decoder(*_: object, **__: object) -> SuccessorDecoder:
        opened.append(SuccessorDecoder())
        opened[-1].trace = trace
        return opened[-1]

    monkeypatch.setattr(bench, "open_decoder", open_decoder)
    profile = bench.run(tiny_model, name="tiny", graph_dir=tmp_path, threads=1, steps=3)
    assert list(profile.times_us) == list(SCENARIOS)
    times = profile.times_us["1 token"]
    assert times["Linear"] == 31
    assert times[BETWEEN] == 60 - 31 - 5
    assert times[WHOLE] > 0
    sizes = [{(len(step), step[0][0]) for step in each.steps} for each in opened]
    assert [max(size) for size in sizes[::2]] == [(1, 128), (8, 1), (1, 512)]
    assert all(each.open == set() for each in opened)


def test_what_was_written_is_read_again() -> None:
    assert parse(render(PROFILE)) == [PROFILE]


def test_a_new_profile_takes_the_place_of_the_models_old_one() -> None:
    empty = f"# Title\n\n{BEGIN}\n{END}\n\nThe end.\n"
    other = Profile(model="other", place="here", times_us=PROFILE.times_us)
    newer = Profile(model="tiny", place="there", times_us=PROFILE.times_us)
    document = update(update(update(empty, PROFILE), other), newer)
    assert read(document) == [newer, other]
    assert document.startswith("# Title\n")
    assert document.endswith("\n\nThe end.\n")


def test_a_document_without_a_place_is_left_alone() -> None:
    with pytest.raises(InputError, match="has no place for profiles"):
        update("# Title\n", PROFILE)


def test_the_document_is_what_the_command_writes() -> None:
    document = DOCUMENT.read_text(encoding="utf-8")
    for profile in read(document):
        assert list(profile.times_us) == list(SCENARIOS)
        assert all(WHOLE in times for times in profile.times_us.values())
        assert update(document, profile) == document
