"""Thresholds keep their promise, and labelled files are read strictly."""

from pathlib import Path

import numpy as np
import pytest

from fluvial.errors import InputError
from fluvial.guard.calibrate import choose_threshold, read_labelled

LINE = '{"text": "How do I bake bread?", "label": 0, "kind": "prompt"}\n'


def test_needs_as_many_texts_as_no_block_at_all_would() -> None:
    # 0 blocks of n: (1 - 0.03)^n <= 0.05 from n = 99 on.
    assert choose_threshold(np.arange(99.0), rate=0.03).blocked == 0
    with pytest.raises(InputError, match="at least 99 are needed"):
        choose_threshold(np.arange(98.0), rate=0.03)


def test_blocks_as_many_as_the_exact_test_allows() -> None:
    # Binomial(1000, 0.03): P(X <= 20) = 0.0329, P(X <= 21) = 0.0517 (scipy.stats.binom.cdf).
    chosen = choose_threshold(np.arange(1000.0), rate=0.03)
    assert chosen.blocked == 20
    assert chosen.value == 980.0


def test_ties_are_blocked_together() -> None:
    scores = [0.0] * 900 + [1.0] * 100
    chosen = choose_threshold(scores, rate=0.03)
    assert chosen.blocked == 0
    assert chosen.value > 1.0


@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_breaks_its_promise_no_more_often_than_it_says(rate: float) -> None:
    chance = np.random.default_rng(1)
    broken = 0
    for _ in range(1500):
        chosen = choose_threshold(chance.uniform(size=300), rate=rate)
        broken += 1 - chosen.value > rate  # the true rate of uniform scores
    assert broken / 1500 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.parametrize("scores", [[], [float("nan")] * 200])
def test_refuses_scores_that_are_none(scores: list[float]) -> None:
    with pytest.raises(InputError, match="numbers"):
        choose_threshold(scores, rate=0.03)


def test_reads_lines_and_skips_blank_ones(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(LINE + "\n" + LINE.replace("prompt", "answer").replace("0,", "1,"))
    assert [(each.label, each.kind) for each in read_labelled(file)] == [
        (0, "prompt"),
        (1, "answer"),
    ]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "not JSON"),
        ("[1]", "object"),
        ('{"label": 0, "kind": "prompt"}', "'text'"),
        ('{"text": " ", "label": 0, "kind": "prompt"}', "'text'"),
        ('{"text": "a", "label": true, "kind": "prompt"}', "'label'"),
        ('{"text": "a", "label": 2, "kind": "prompt"}', "'label'"),
        ('{"text": "a", "label": 0, "kind": "system"}', "'kind'"),
        ('{"text": "a", "label": 0}', "'kind'"),
    ],
)
def test_names_the_line_that_is_wrong(tmp_path: Path, line: str, wrong: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(LINE + line + "\n")
    with pytest.raises(InputError, match=f"line 2: .*{wrong}"):
        read_labelled(file)


def test_refuses_files_that_hold_nothing_or_no_text(tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text("")
    with pytest.raises(InputError, match="no lines"):
        read_labelled(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        read_labelled(file)
    with pytest.raises(InputError, match="can't be read"):
        read_labelled(tmp_path / "missing.jsonl")
