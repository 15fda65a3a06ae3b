"""The guard's benchmark: exact figures for a labelled file, rates by source, tricks."""

import json
from pathlib import Path

import pytest

from fluvial.bench.guard import (
    TRICKS,
    compute_auc,
    disguise,
    evaluate,
    report_tricks,
    report_unseen,
)
from fluvial.cli.main import run
from fluvial.guard.calibrate import Labelled
from fluvial.guard.classifier import ClassifierCheck
from fluvial.guard.corpus import Text
from tests.guard.small import FORBIDDEN, load_classifier, write_classifier

BAD, GOOD = f"how do i make a {FORBIDDEN}", "how do i make a cake"
KEYS = ["n", "auc", "catch_at_threshold", "false_block_at_threshold", "p50_ms", "p99_ms"]


def text(words: str, label: int, source: str, **more: str) -> Text:
    return Text(text=words, label=label, kind="prompt", source=source, role="unseen", **more)


@pytest.fixture
def small(tmp_path: Path) -> ClassifierCheck:
    return load_classifier(tmp_path)


@pytest.mark.parametrize(
    ("harmful", "benign", "auc"),
    [
        ([0.9, 0.8], [0.1, 0.2], 1.0),
        ([0.1], [0.9], 0.0),
        ([0.5], [0.5], 0.5),
        ([0.3, 0.7], [0.5], 0.5),
        ([], [0.5], None),
    ],
)
def test_auc_by_hand(harmful: list[float], benign: list[float], auc: float | None) -> None:
    assert compute_auc(harmful, benign) == auc


def test_evaluates_labelled_texts(small: ClassifierCheck) -> None:
    lines = [
        Labelled(text=words, label=label, kind=kind)
        for words, label in ((BAD, 1), (GOOD, 1), (GOOD, 0), (BAD, 0), ("the cake", 0))
        for kind in ("prompt", "answer")
    ]
    found = evaluate(lines, small)
    assert list(found) == KEYS
    assert found["n"] == 10
    assert found["catch_at_threshold"] == 0.5
    assert found["false_block_at_threshold"] == 0.3333
    assert found["auc"] is not None
    assert 0 < (found["p50_ms"] or 0) <= (found["p99_ms"] or 0)


def test_rates_are_none_without_texts_of_a_label(small: ClassifierCheck) -> None:
    found = evaluate([Labelled(text=GOOD, label=0, kind="prompt")], small)
    assert found["auc"] is None
    assert found["catch_at_threshold"] is None
    assert found["false_block_at_threshold"] == 0


def test_reports_by_source_and_how_much_was_seen(small: ClassifierCheck) -> None:
    texts = [
        text(BAD, 1, "bad", category="weapons"),
        text(GOOD, 0, "plain", group="ordinary"),
        text(f"the {FORBIDDEN} is a word that means nothing", 0, "alike", group="look-alikes"),
    ]
    found = report_unseen(texts, small)
    rows = {row["source"]: row for row in found["sources"]}
    assert rows["bad"]["blocked"] == {"20": 0.0, "50": 0.0, "100": 1.0}
    assert rows["alike"]["blocked"] == {"20": 0.0, "50": 1.0, "100": 1.0}
    assert found["categories"]["weapons"] == {"n": 1, "caught": 1.0}
    assert found["kinds"]["prompt"]["auc"] == {"ordinary": 1.0, "look-alikes": 0.5}
    assert found["kinds"]["prompt"]["caught_at_3_pct_of_ordinary"] == 1.0


@pytest.mark.parametrize("trick", TRICKS)
def test_every_trick_changes_the_text(trick: str) -> None:
    assert disguise(BAD, trick) != BAD


def test_tells_what_gets_through(small: ClassifierCheck) -> None:
    found = report_tricks([text(BAD, 1, "bad"), text(GOOD, 1, "missed plainly")], small)
    assert {row["n"] for row in found.values()} == {1}
    for trick in ("homoglyphs", "full width", "zero width", "leetspeak", "base64", "hex"):
        assert found[trick]["gets_through"] == 0, trick
    assert found["in a long benign text"]["gets_through"] == 0
    assert found["reversed"]["gets_through"] == 1  # honest: this one is not undone


def test_the_command_prints_exactly_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = write_classifier(tmp_path)
    file = tmp_path / "lines.jsonl"
    rows = [
        {"text": BAD, "label": 1, "kind": "prompt"},
        {"text": GOOD, "label": 0, "kind": "answer"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(["bench", "guard", "--json", str(file), "--weights", str(weights)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed) == KEYS
    assert (printed["n"], printed["auc"]) == (2, 1.0)


def test_the_command_names_a_bad_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text('{"text": "a", "label": 5, "kind": "prompt"}\n')
    assert run(["bench", "guard", "--json", str(file)]) == 1
    assert "line 1" in capsys.readouterr().err
    assert run(["bench", "guard"]) == 2
