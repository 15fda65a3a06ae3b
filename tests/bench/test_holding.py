"""What the guard costs, measured on the tiny model: both sides are really run."""

from pathlib import Path

import pytest

from fluvial.bench.holding import Answer, Side, run, summarise_sides
from fluvial.config import load
from fluvial.model.catalogue import Entry
from fluvial.model.registry import Registry


def test_both_sides_answer_and_the_guarded_one_is_checked(
    tmp_path: Path, tiny_model: Path, native_library: Path
) -> None:
    Registry(tmp_path).install(Entry(name="tiny", sources=(f"file:{tiny_model}",)))
    settings = load(
        overrides={"data_dir": tmp_path, "model": "tiny", "offline": True, "threads": 1}
    )
    seen: list[tuple[int, int]] = []
    result = run(
        settings=settings,
        rounds=2,
        tokens=40,
        streams=(1, 2),
        on_round=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (4, 4)
    assert result["streams"]["2"]["answers"] == 4
    for found in result["streams"].values():
        assert found["first_ms_on"]["p50"] >= found["first_ms_off"]["p50"]
        assert found["tokens_per_s_on"] > 0
    # Each answer of 40 random tokens is checked at least once.
    assert result["check_ms"]["answer"]["n"] >= 6
    assert result["check_ms"]["prompt"]["n"] >= 1


def test_the_overhead_is_the_share_of_speed_that_is_taken() -> None:
    def side(seconds: float) -> Side:
        made = Side()
        answer = Answer(first_s=seconds / 10, whole_s=seconds, tokens=100, stopped=False)
        made.add([answer, answer])
        return made

    found = summarise_sides(side(1.0), side(1.25))
    assert (found["tokens_per_s_off"], found["tokens_per_s_on"]) == (200, 160)
    assert found["overhead"] == pytest.approx(0.2)
    assert found["first_ms_on"]["p50"] == pytest.approx(125)
