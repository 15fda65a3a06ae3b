"""What the engine is given of the settings."""

import threading
from pathlib import Path

import pytest
from llguidance import LLTokenizer

from fluvial.config import load
from fluvial.engine import grammar
from fluvial.errors import InputError
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.tokenizer import Tokenizer
from fluvial.service.start import count_cache_tokens, open_engine, open_spill
from fluvial.types import Grammar, Message, Sampling


def test_memory_for_caches_is_what_the_setting_says(tiny_model: Path, tmp_path: Path) -> None:
    declaration = open_checkpoint(tiny_model).declaration
    one, two = (
        count_cache_tokens(load(overrides={"cache_bytes": size}), declaration=declaration)
        for size in (2**22, 2**23)
    )
    assert two == pytest.approx(2 * one, abs=16)
    narrow = load().model_copy(update={"cache_bytes": 1000})
    with pytest.raises(InputError) as caught:
        count_cache_tokens(narrow, declaration=declaration)
    assert caught.value.param == "cache_bytes"
    assert "cache_bytes = 1000" in caught.value.message


def test_caches_of_8_bits_hold_more_tokens(tiny_model: Path) -> None:
    declaration = open_checkpoint(tiny_model).declaration
    large, small = (
        count_cache_tokens(load(overrides={"cache_bits": bits}), declaration=declaration)
        for bits in ("16", 8)
    )
    assert small > large
    with pytest.raises(InputError, match="cache_bits"):
        load(overrides={"cache_bits": "12"})


def test_no_disk_for_caches_where_the_setting_is_zero(tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": tmp_path, "cache_disk_bytes": 0})
    assert open_spill(settings, checkpoint="c") is None
    assert not list(tmp_path.iterdir())


def test_engine_of_the_settings_answers_and_leaves_its_cache_in_the_data_folder(
    tiny_model: Path, tmp_path: Path
) -> None:
    settings = load(overrides={"data_dir": tmp_path, "threads": 1, "batch_limit": 2})
    checkpoint = open_checkpoint(tiny_model)
    messages = [Message(role="user", content="A river carries what it meets. " * 4)]
    cached: list[int] = []
    for _ in range(2):
        engine = open_engine(checkpoint, name="tiny", settings=settings)
        try:
            answer = engine.generate(
                messages, sampling=Sampling(temperature=0, max_tokens=4), lane="s1"
            )
            usage = list(answer)[-1].usage
            assert usage is not None
            cached.append(usage.cached_tokens)
            engine.check()
        finally:
            engine.close()
    files = list((tmp_path / "caches").glob("*.safetensors"))
    assert len(files) == 1
    assert cached == [0, usage.prompt_tokens - 1]


def test_weights_are_whole_where_the_setting_says_so_and_caches_of_both_forms_stay_apart(
    tiny_model: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(tiny_model)
    messages = [Message(role="user", content="A river carries what it meets. " * 4)]
    cached: list[int] = []
    for weights in ("packed", "float32"):
        settings = load(overrides={"data_dir": tmp_path, "threads": 1, "weights": weights})
        with open_engine(checkpoint, name="tiny", settings=settings) as engine:
            answer = engine.generate(
                messages, sampling=Sampling(temperature=0, max_tokens=4), lane="s1"
            )
            usage = list(answer)[-1].usage
            assert usage is not None
            cached.append(usage.cached_tokens)
    names = sorted(folder.name for folder in (tmp_path / "graphs").iterdir())
    assert ["float32" in name for name in names] == [True, False]
    sizes = [(tmp_path / "graphs" / name / "weights.bin").stat().st_size for name in names]
    assert sizes[0] > 2 * sizes[1]
    assert cached == [0, 0]


def test_the_vocabulary_is_there_before_the_first_grammar(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    build = grammar._build_native

    def note(tokenizer: Tokenizer) -> LLTokenizer:
        built.append(threading.current_thread().name)
        return build(tokenizer)

    monkeypatch.setattr(grammar, "_build_native", note)
    settings = load(overrides={"data_dir": tmp_path, "threads": 1})
    with open_engine(open_checkpoint(tiny_model), name="tiny", settings=settings) as engine:
        assert built == ["grammar vocabulary"]
        sampling = Sampling(max_tokens=4, grammar=Grammar(kind="regex", text="[0-9]{2}"))
        text = "".join(
            delta.text
            for delta in engine.generate(
                [Message(role="user", content="hi")], sampling=sampling, lane="s1"
            )
        )
    assert built == ["grammar vocabulary"]
    assert len(text) == 2
    assert text.isdecimal()
