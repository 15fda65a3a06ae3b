"""`fluvial bench quality`: the same ids on every side, all of them counted once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.bench import quality
from fluvial.bench.engine import Target
from fluvial.bench.quality import compare, cut_windows, run
from fluvial.errors import EngineError, InputError
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import open_tokenizer
from tests.bench.double import Journal, SetSide

TEXT = "the thing is that the king is in the ring, and 国王 sings. " * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_windows_hold_the_text_once_each_behind_a_first_token(file: Path, tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    ids = open_tokenizer(checkpoint).encode(TEXT)
    windows = cut_windows(file, checkpoint, tokens=250, window_tokens=100)
    assert [len(window) for window in windows] == [101, 101, 51]
    assert {window[0] for window in windows} == {0}
    assert [token for window in windows for token in window[1:]] == ids[:250]


@pytest.mark.parametrize(
    ("tokens", "window_tokens", "message"),
    [(10**6, 512, "give a longer text"), (100, 4000, "do not fit the model's context of 2048")],
)
def test_what_can_not_be_measured_is_refused(
    tokens: int, window_tokens: int, message: str, file: Path, tiny_model: Path
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    with pytest.raises(InputError, match=message):
        cut_windows(file, checkpoint, tokens=tokens, window_tokens=window_tokens)


def test_perplexities_and_their_ratios(
    file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "check_installed", lambda: "0")
    journal = Journal()
    told: list[tuple[Any, ...]] = []
    result = run(
        file,
        Target(name="tiny", path=tiny_model),
        graph_dir=tmp_path,
        threads=1,
        tokens=1000,
        window_tokens=100,
        on_progress=lambda *step: told.append(step),
        open_side=journal.open_side,
    )
    assert result["ours"]["nats_per_token"] == pytest.approx(2)
    assert result["ours"]["perplexity"] == pytest.approx(7.38906)
    assert result["ours_over_reference"] == pytest.approx(1.10517)
    assert result["ours_over_peer"] == pytest.approx(0.90484)
    assert result["ours_minus_reference"] == {"nats_per_token": 0.1, "standard_error": 0}
    assert result["ours_minus_peer"] == {"nats_per_token": -0.1, "standard_error": 0}
    sent: dict[str, list[list[int]]] = {}
    for side, _, values in journal.asked:
        sent.setdefault(side, []).extend(values["windows"])
    assert sent["ours"] == sent["peer"] == sent["reference"]
    assert told[-1] == ("peer", 10, 10)
    assert journal.open_now == []


def test_a_side_that_leaves_a_token_out_is_told(
    file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quality, "check_installed", lambda: "0")

    class Forgetful(SetSide):
        def ask(self, do: str, **values: Any) -> dict[str, Any]:
            first, *others = super().ask(do, **values)["value"]
            return {"value": [first[1:], *others]}

    with pytest.raises(EngineError, match="ours did not score every token once"):
        run(
            file,
            Target(name="tiny", path=tiny_model),
            graph_dir=tmp_path,
            threads=1,
            tokens=100,
            open_side=lambda name, settings: Forgetful(name, dict(settings), Journal()),
        )


def test_a_difference_has_an_error_though_texts_are_uneven() -> None:
    """What both have in common, however uneven, is no part of the error."""
    random = np.random.default_rng(0)
    common = random.exponential(3, 16_000)
    told = compare((common + random.normal(0.01, 0.1, 16_000)).tolist(), common.tolist())
    assert told["nats_per_token"] == pytest.approx(0.01, abs=0.003)
    assert told["standard_error"] == pytest.approx(0.1 / 16_000**0.5, rel=0.1)


def test_neighbours_that_hang_together_are_one_piece_of_evidence() -> None:
    random = np.random.default_rng(0)
    together = np.repeat(random.normal(0, 0.1, 1000), 16)
    told = compare(together.tolist(), [0.0] * len(together))
    assert told["standard_error"] == pytest.approx(0.1 / 1000**0.5, rel=0.1)


@pytest.mark.parametrize("count", [1, 16, 31])
def test_few_tokens_have_no_error(count: int) -> None:
    assert compare([2.0] * count, [1.0] * count) == {"nats_per_token": 1, "standard_error": None}


def test_other_tokens_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare([1.0, 2.0], [1.0])
