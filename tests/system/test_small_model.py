"""The small real model, as it is pulled: the same numbers as `transformers`, in every form."""

from collections.abc import Callable
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from fluvial.engine.decoder import Decoder
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module
from fluvial.model.opening import open_tokenizer
from tests.reference import load_reference

PERPLEXITY_TOKENS = 20_000
WINDOW_TOKENS = 512

pytestmark = pytest.mark.model


@pytest.fixture(
    scope="module",
    params=[
        "small_model_path",
        pytest.param("default_model_path", marks=pytest.mark.slow),
    ],
)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def module(checkpoint: Checkpoint) -> Module:
    return Module(checkpoint)


@pytest.fixture(scope="module")
def decoder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = ensure_graph(checkpoint, cache_dir=tmp_path_factory.mktemp("graph"), positions=1024)
    return Decoder(checkpoint, graph_folder=folder, context_tokens=1024, threads=2)


@pytest.fixture(scope="module")
def windows(checkpoint: Checkpoint) -> list[list[int]]:
    """20,000 tokens of the Python manual, in windows."""
    ids = open_tokenizer(checkpoint).encode("\n".join(topics[key] for key in sorted(topics)))
    assert len(ids) >= PERPLEXITY_TOKENS
    starts = range(0, PERPLEXITY_TOKENS, WINDOW_TOKENS)
    return [ids[start : min(start + WINDOW_TOKENS, PERPLEXITY_TOKENS)] for start in starts]


def test_the_modules_logits_are_those_of_transformers(
    checkpoint: Checkpoint, module: Module, windows: list[list[int]]
) -> None:
    reference = load_reference(checkpoint)
    for window in windows[:2]:
        ids = torch.tensor(window[:256])
        with torch.no_grad():
            expected = reference(ids[None]).logits[0]
            found = module.logits(module.read(ids)[0])
        assert (found - expected).norm() / expected.norm() < 1e-4
        assert (found - expected).abs().max() / expected.abs().max() < 1e-4


def test_perplexity_of_the_packed_engine_is_within_a_percent(
    module: Module,
    decoder: Decoder,
    windows: list[list[int]],
    record_property: Callable[[str, object], None],
) -> None:
    packed = exact = 0.0
    for window in windows:
        packed += _score_packed(decoder, window)
        with torch.no_grad():
            hidden, _ = module.read(torch.tensor(window[:-1]))
            exact += float(module.losses(hidden, torch.tensor(window[1:])).sum())
    count = sum(len(window) - 1 for window in windows)
    ratio = np.exp((packed - exact) / count)
    record_property("packed_perplexity", float(np.exp(packed / count)))
    record_property("exact_perplexity", float(np.exp(exact / count)))
    assert abs(ratio - 1) < 0.01


def _score_packed(decoder: Decoder, window: list[int]) -> float:
    cache = decoder.new_cache(WINDOW_TOKENS)
    rows = range(len(window) - 1)
    logits = decoder.score(window[:-1], rows=rows, cache=cache).astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    log_norm = np.log(np.exp(logits).sum(axis=-1))
    return float((log_norm - logits[rows, window[1:]]).sum())
