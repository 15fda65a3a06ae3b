"""A guard model on a real engine: one that only babbles lets nothing pass."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.config import Settings, load
from fluvial.errors import GuardError, NotFoundError
from fluvial.guard.policy import ModelProvider
from fluvial.guard.provider_model import VERDICT_TOKENS, GuardModelCheck
from fluvial.model.catalogue import Entry
from fluvial.model.registry import Registry
from fluvial.service.guard_model import EngineWriter, fit_settings
from fluvial.service.start import open_guard_model
from fluvial.types import Message

PROVIDER = ModelProvider(model="tiny", format="llama-guard", context_tokens=1024)


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, native_library: Path) -> Settings:
    Registry(tmp_path).install(Entry(name="tiny", sources=(f"file:{tiny_model}",)))
    return load(overrides={"data_dir": tmp_path, "offline": True, "threads": 1})


@pytest.fixture
def writer(settings: Settings) -> Iterator[EngineWriter]:
    writer = open_guard_model(PROVIDER, settings=settings)
    yield writer
    writer.close()


def test_babble_is_no_verdict(writer: EngineWriter) -> None:
    check = GuardModelCheck("model.tiny", PROVIDER, writer=writer)
    for kind in ("prompt", "answer"):
        with pytest.raises(GuardError):
            check.find("hello", kind=kind, context="hi")


def test_a_text_that_does_not_fit_is_refused_and_not_cut(writer: EngineWriter) -> None:
    with pytest.raises(Exception, match="tokens"):
        writer.write([Message(role="user", content="hello " * 2000)])


def test_its_engine_is_small_and_keeps_nothing(settings: Settings) -> None:
    fitted = fit_settings(settings, PROVIDER)
    assert (fitted.context_tokens, fitted.answer_tokens) == (1024, VERDICT_TOKENS)
    assert fitted.cache_disk_bytes == 0


def test_a_guard_model_that_is_not_installed_is_told_at_the_start(settings: Settings) -> None:
    provider = PROVIDER.model_copy(update={"model": "unknown-guard"})
    with pytest.raises(NotFoundError, match="unknown-guard"):
        open_guard_model(provider, settings=settings)
