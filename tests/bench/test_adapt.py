"""`fluvial bench adapt`: the promised table, from any UTF-8 file, deterministic, and honest."""

from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.bench.adapt import run
from fluvial.config import Settings, load
from fluvial.errors import InputError
from fluvial.model.adapter import Tensors
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer

RULE = {"rank": 4, "depth": 1, "chunk_tokens": 64, "overlap_tokens": 32, "stride_tokens": 256}
TEXT = "the thing is that the king is in the ring, and 国王 sings. " * 40


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return load(overrides={**RULE, "data_dir": tmp_path_factory.getbasetemp() / "bench-adapt"})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_the_table_has_the_promised_fields(
    file: Path, tiny_model: Path, settings: Settings
) -> None:
    result = run([file], model_path=tiny_model, settings=settings)
    assert {"model", "files", "median_gain_pct", "median_overhead"} <= result.keys()
    (row,) = result["files"]
    assert set(row) == {
        "path",
        "tokens",
        "bytes",
        "window_tokens",
        *("frozen_bpb", "long_window_bpb", "adapted_bpb", "gain_pct"),
        *("updates", "skipped", "drift", "scaled_back", "notes", "state_bytes"),
        *("unrelated_before_bpb", "unrelated_after_bpb"),
        *("instructions_before", "instructions_after", "beside_bpb"),
        *("frozen_s", "adapted_s", "overhead"),
    }
    assert row["bytes"] == len(TEXT.encode())
    assert row["window_tokens"] == 288
    assert row["gain_pct"] == pytest.approx(
        100 * (1 - row["adapted_bpb"] / row["frozen_bpb"]), abs=0.01
    )
    assert row["gain_pct"] > 2, "a text that repeats itself is learned"


def test_frozen_is_what_the_learner_scores_by_itself(
    file: Path, tiny_model: Path, settings: Settings
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    tokenizer = open_tokenizer(checkpoint)
    learner = Learner(
        checkpoint, rule=Rule.from_settings(settings), graph_dir=settings.data_dir / "graphs"
    )
    ids = tokenizer.encode(TEXT)[:1024]
    nats = sum(learner.score([choose_first_token(tokenizer)], ids))
    result = run([file], model_path=tiny_model, settings=settings, tokens=1024)
    (row,) = result["files"]
    assert row["frozen_bpb"] == pytest.approx(nats / 0.693147 / row["bytes"], rel=1e-4)


def test_damage_instructions_and_a_second_model_stand_beside(
    file: Path, tiny_model: Path, settings: Settings, tmp_path: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("Water boils at a hundred degrees. " * 20, encoding="utf-8")
    asked: list[Tensors | None] = []

    def ask(tensors: Tensors | None) -> int:
        asked.append(tensors)
        return 40 + len(asked)

    result = run(
        [file],
        model_path=tiny_model,
        settings=settings,
        unrelated=other,
        beside_path=tiny_model,
        ask=ask,
    )
    (row,) = result["files"]
    assert row["unrelated_before_bpb"] != row["unrelated_after_bpb"]
    assert (row["instructions_before"], row["instructions_after"]) == (41, 42)
    assert asked[0] is None
    assert asked[1] is not None
    assert row["beside_bpb"] == pytest.approx(row["frozen_bpb"], rel=0.02)


def test_each_file_starts_from_the_base_and_twice_is_the_same(
    file: Path, tiny_model: Path, settings: Settings
) -> None:
    rows = run([file, file], model_path=tiny_model, settings=settings)["files"]
    assert rows[0]["adapted_bpb"] == rows[1]["adapted_bpb"]


def test_a_limit_on_tokens_is_kept(file: Path, tiny_model: Path, settings: Settings) -> None:
    (row,) = run([file], model_path=tiny_model, settings=settings, tokens=100)["files"]
    assert row["tokens"] == 100


@pytest.mark.parametrize(("data", "message"), [(b"ab\xffcd", "byte 2 is 0xff"), (b"", "is empty")])
def test_what_is_no_text_is_refused(
    data: bytes, message: str, tmp_path: Path, tiny_model: Path, settings: Settings
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        run([path], model_path=tiny_model, settings=settings)
