"""`fluvial bench adapt`: the promised table, from any UTF-8 file, deterministic, and honest."""

from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.bench.adapt import run
from fluvial.config import load
from fluvial.errors import InputError
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer

SETTINGS = load(overrides={"rank": 4, "chunk_tokens": 64, "window_tokens": 32})
TEXT = "the thing is that the king is in the ring, and 国王 sings. " * 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_table_has_the_promised_fields(file: Path, tiny_model: Path) -> None:
    result = run([file], model_path=tiny_model, settings=SETTINGS)
    assert {"model", "files", "median_gain_pct", "median_overhead"} <= result.keys()
    (row,) = result["files"]
    assert set(row) == {
        "path",
        "tokens",
        "bytes",
        "window_tokens",
        "frozen_bpb",
        "adapted_bpb",
        "gain_pct",
        "frozen_s",
        "adapted_s",
        "overhead",
    }
    assert row["bytes"] == len(TEXT.encode())
    assert row["window_tokens"] == 96
    assert row["gain_pct"] == pytest.approx(
        100 * (1 - row["adapted_bpb"] / row["frozen_bpb"]), abs=0.01
    )
    assert row["gain_pct"] > 10, "a text that repeats itself is learned"


def test_frozen_is_what_the_learner_scores_chunk_by_chunk(file: Path, tiny_model: Path) -> None:
    checkpoint = open_checkpoint(tiny_model)
    tokenizer = open_tokenizer(checkpoint)
    learner = Learner(checkpoint, rule=Rule.from_settings(SETTINGS))
    ids = tokenizer.encode(TEXT)
    nats = 0.0
    for start in range(0, len(ids), 64):
        context = [choose_first_token(tokenizer), *ids[:start]][-32:]
        nats += learner.score(context, ids[start : start + 64])
    (row,) = run([file], model_path=tiny_model, settings=SETTINGS)["files"]
    assert row["frozen_bpb"] == pytest.approx(nats / 0.693147 / len(TEXT.encode()), rel=1e-4)


def test_each_file_starts_from_the_base_and_twice_is_the_same(file: Path, tiny_model: Path) -> None:
    rows = run([file, file], model_path=tiny_model, settings=SETTINGS)["files"]
    assert rows[0]["adapted_bpb"] == rows[1]["adapted_bpb"]


def test_a_limit_on_tokens_is_kept(file: Path, tiny_model: Path) -> None:
    (row,) = run([file], model_path=tiny_model, settings=SETTINGS, tokens=100)["files"]
    assert row["tokens"] == 100


@pytest.mark.parametrize(("data", "message"), [(b"ab\xffcd", "byte 2 is 0xff"), (b"", "is empty")])
def test_what_is_no_text_is_refused(
    data: bytes, message: str, tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        run([path], model_path=tiny_model, settings=SETTINGS)
