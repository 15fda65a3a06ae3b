"""`fluvial bench engine`: the promised figures, both sides in turn, each with its best settings."""

import json
from pathlib import Path
from typing import Any

import pytest

import fluvial.bench.engine as bench
from fluvial.bench.engine import Target, compare, run
from fluvial.bench.plan import QUICK, Plan, list_options
from fluvial.bench.search import list_thread_counts, search
from fluvial.bench.spread import summarise
from fluvial.errors import UnsupportedError
from tests.bench.double import Journal

PLAN = Plan(rounds=3, prefill_tokens=(512, 4096), long_context_tokens=1800)


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(bench, "count_usable", lambda: 2)
    monkeypatch.setattr(bench, "check_installed", lambda: "0")
    return Journal()


@pytest.fixture
def result(journal: Journal, tiny_model: Path, tmp_path: Path) -> dict[str, Any]:
    targets = [Target(name=name, path=tiny_model) for name in ("other", "smollm2-135m-instruct")]
    return run(targets, graph_dir=tmp_path, plan=PLAN, open_side=journal.open_side)


def test_the_promised_figures_are_there(result: dict[str, Any]) -> None:
    assert result["model"] == "smollm2-135m-instruct", "its figures stand at the top level"
    assert list(result["models"]) == ["other", "smollm2-135m-instruct"]
    decode = result["decode"]
    assert (decode["ours_tps"], decode["peer_tps"], decode["ratio"]) == (200, 100, 2)
    assert (decode["ours_with_adapter_tps"], decode["ratio_with_adapter"]) == (150, 1.5)
    assert set(result["prefill"]) == {"512", "4096"}
    assert result["prefill"]["512"]["ratio"] == 2
    assert result["batch8"]["distinct_adapters"] == 8
    assert (result["load_s"]["ours"], result["load_s"]["peer"]) == (0.5, 0.25)
    assert result["rss_mb"] | {"spread": None} == {
        "ours": 100,
        "peer": 100,
        "ours_peak": 120,
        "peer_peak": 120,
        "spread": None,
    }
    assert set(result["context"]["at"]) == {"128", "1800"}
    assert result["context"]["ours_ratio"] == pytest.approx(0.6)
    assert result["settings"]["ours"]["decode"] == {"threads": 2}
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["fluvial"]
    json.dumps(result)


def test_what_does_not_fit_the_model_is_null_rather_than_guessed(result: dict[str, Any]) -> None:
    assert result["prefill"]["4096"] is None


def test_the_limit_is_bytes_times_speed_over_bandwidth(result: dict[str, Any]) -> None:
    limit = result["roofline"]
    assert limit["read_gbps"] == 20, "the best number of threads counts"
    assert limit["fraction_of_limit"] == pytest.approx(
        200 * limit["bytes_per_token"] / 20e9, abs=1e-4
    )


def test_sides_take_turns_and_the_order_turns_too(journal: Journal, result: dict[str, Any]) -> None:
    """Rounds are told apart by their size: the trials ask for fewer tokens."""
    rounds = [
        (side, values["adapter"])
        for side, do, values in journal.asked
        if do == "decode" and values["tokens"] == PLAN.decode_tokens and "kept" not in values
    ]
    once = [("ours", False), ("peer", False), ("ours", True)]
    assert rounds[:12] == [*once, *once, *reversed(once), *once]
    assert journal.open_now == []
    assert journal.most_open == 2


def test_the_peer_gets_what_it_needs_and_no_adapters(
    journal: Journal, result: dict[str, Any]
) -> None:
    batches = [(side, values) for side, do, values in journal.asked if do == "batch"]
    assert {side for side, _ in batches} == {"ours", "peer"}
    assert all(values["adapters"] == (side == "ours") for side, values in batches)
    assert all(len({tuple(p) for p in values["prompts"]}) == 8 for _, values in batches)
    tried = {tuple(sorted(s.items())) for name, s in journal.opened if name == "peer"}
    assert {value["flash_attention"] for value in map(dict, tried)} == {True, False}
    assert {True, False} <= {value.get("unified") for value in map(dict, tried)}


def test_both_sides_read_the_same_tokens(journal: Journal, result: dict[str, Any]) -> None:
    prompts: dict[str, set[tuple[int, ...]]] = {"ours": set(), "peer": set()}
    for side, do, values in journal.asked:
        if do in ("decode", "prefill"):
            prompts[side].add(tuple(values["prompt"]))
    assert prompts["ours"] == prompts["peer"]


def test_threads_can_be_fixed(journal: Journal, tiny_model: Path, tmp_path: Path) -> None:
    target = Target(name="tiny", path=tiny_model)
    result = run([target], graph_dir=tmp_path, plan=QUICK, threads=1, open_side=journal.open_side)
    assert {s["threads"] for name, s in journal.opened if name != "reading"} == {1}
    assert result["decode"]["ours_tps"] == 100


def test_a_side_that_fails_leaves_nothing_open(
    journal: Journal, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> float:
        raise RuntimeError("boom")

    monkeypatch.setattr(bench, "_ask", fail)
    with pytest.raises(RuntimeError, match="boom"):
        run(
            [Target(name="tiny", path=tiny_model)],
            graph_dir=tmp_path,
            plan=QUICK,
            open_side=journal.open_side,
        )
    assert journal.open_now == []


def test_without_the_peer_it_says_how_to_get_it(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'fluvial\[bench\]'"):
        run([Target(name="tiny", path=tiny_model)], graph_dir=tmp_path, plan=QUICK)


def test_ratios_are_of_medians_and_their_spread_is_of_pairs() -> None:
    figures = compare({"ours": [10, 30, 20], "peer": [10, 10, 5]})
    assert (figures["ours_tps"], figures["peer_tps"], figures["ratio"]) == (20, 10, 2)
    assert (figures["spread"]["ratio"]["min"], figures["spread"]["ratio"]["max"]) == (1, 4)


def test_a_summary_tells_median_ends_and_quartiles() -> None:
    spread = summarise([5, 1, 4, 2, 3])
    assert (spread.median, spread.min, spread.max, spread.iqr, spread.rounds) == (3, 1, 5, 2, 5)
    assert summarise([7]).iqr == 0
    with pytest.raises(ValueError, match="no round"):
        summarise([])


def test_the_search_keeps_the_best_of_each_option_and_repeats_nothing() -> None:
    asked: list[tuple[int, bool]] = []

    def measure(settings: dict[str, Any]) -> float:
        asked.append((settings["threads"], settings["flash"]))
        return settings["threads"] * (1 if settings["flash"] else 3)

    best, trials = search({"threads": (2, 1, 3), "flash": (True, False)}, measure=measure)
    assert best == {"threads": 3, "flash": False}
    assert asked == [(2, True), (1, True), (3, True), (3, False)]
    assert [trial.tps for trial in trials] == [2, 1, 3, 9]


@pytest.mark.parametrize(
    ("cores", "counts"),
    [(1, [1]), (2, [2, 1]), (4, [4, 3, 2, 1]), (24, [24, 16, 8, 7, 6, 5, 4, 3, 2, 1])],
)
def test_thread_counts(cores: int, counts: list[int]) -> None:
    assert list_thread_counts(cores) == counts


def test_quick_tries_threads_alone() -> None:
    for side in ("ours", "peer"):
        options = list_options(side, "batch8", plan=QUICK, cores=2, threads=None)
        assert options == {"threads": [2, 1]}
