"""The packed graph: close to the float module, and equal to itself however it is cut."""

import numpy as np
import pytest
import torch

from fluvial.engine.decoder import Decoder
from fluvial.errors import ContextLengthError
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module

IDS = list(range(3, 150))
# Activations are rounded to eight bits per block of 32, of which this narrow model has only two.
TOLERANCE = 0.08


@pytest.fixture(scope="module", params=["tiny_model", "tiny_qwen"])
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def decoder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = ensure_graph(checkpoint, cache_dir=tmp_path_factory.mktemp("graphs"), positions=512)
    return Decoder(checkpoint, graph_folder=folder, context_tokens=512, threads=1)


def test_logits_are_close_to_the_float_module(decoder: Decoder, checkpoint: Checkpoint) -> None:
    module = Module(checkpoint)
    expected = module.logits(module.read(torch.tensor(IDS))[0]).numpy()
    found = decoder.score(IDS, rows=range(len(IDS)), cache=decoder.new_cache(200))
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < TOLERANCE


def test_a_random_adapter_acts_as_in_the_float_module(
    decoder: Decoder, checkpoint: Checkpoint
) -> None:
    adapter = _random_adapter(checkpoint, key="s/1")
    tensors = {name: torch.from_numpy(array) for name, array in adapter.tensors.items()}
    module = Module(checkpoint)
    base = module.logits(module.read(torch.tensor(IDS))[0]).numpy()
    expected = module.logits(module.read(torch.tensor(IDS), adapter=tensors)[0]).numpy()
    found = decoder.score(IDS, rows=range(len(IDS)), cache=decoder.new_cache(200), adapter=adapter)
    assert np.linalg.norm(expected - base) / np.linalg.norm(base) > 0.2, "the adapter does act"
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < TOLERANCE


def test_step_by_step_is_prefill(decoder: Decoder) -> None:
    whole = decoder.forward(IDS, cache=decoder.new_cache(200))
    cache = decoder.new_cache(200)
    for token in IDS:
        last = decoder.forward([token], cache=cache)
    # Sums in another order flip a few roundings to eight bits, so equal means: as close as those.
    assert np.linalg.norm(last - whole) / np.linalg.norm(whole) < TOLERANCE / 2
    assert cache.tokens == IDS


def test_a_zero_adapter_is_the_base_to_the_last_bit(
    decoder: Decoder, checkpoint: Checkpoint
) -> None:
    zero = Adapter("zero", create_tensors(checkpoint.declaration, rank=8, seed=3))
    base = decoder.forward(IDS, cache=decoder.new_cache(200))
    with_zero = decoder.forward(IDS, cache=decoder.new_cache(200), adapter=zero)
    assert np.array_equal(base, with_zero)


def test_truncating_goes_back_to_where_it_was(decoder: Decoder) -> None:
    cache = decoder.new_cache(200)
    decoder.forward(IDS[:100], cache=cache)
    decoder.forward([9, 9, 9], cache=cache)
    decoder.truncate(cache, 100)
    again = decoder.forward([7], cache=cache)
    straight = decoder.new_cache(200)
    decoder.forward(IDS[:100], cache=straight)
    np.testing.assert_array_equal(again, decoder.forward([7], cache=straight))


def test_caches_and_adapters_do_not_leak_into_each_other(
    decoder: Decoder, checkpoint: Checkpoint
) -> None:
    adapter = _random_adapter(checkpoint, key="s/2")
    alone = decoder.forward(IDS, cache=decoder.new_cache(200))
    first, second = decoder.new_cache(200), decoder.new_cache(300)
    decoder.forward(IDS[:50], cache=first)
    decoder.forward(IDS[60:], cache=second, adapter=adapter)
    found = decoder.forward(IDS[50:], cache=first)
    assert np.linalg.norm(found - alone) / np.linalg.norm(alone) < TOLERANCE / 2


def test_a_full_cache_says_so_and_stays_as_it_was(decoder: Decoder) -> None:
    cache = decoder.new_cache(10)
    decoder.forward(IDS[:8], cache=cache)
    with pytest.raises(ContextLengthError, match="11 tokens do not fit a cache of 10"):
        decoder.forward([1, 2, 3], cache=cache)
    assert cache.length == 8


def _random_adapter(checkpoint: Checkpoint, *, key: str) -> Adapter:
    rng = np.random.default_rng(0)
    tensors = {
        name: (array if array.any() else rng.standard_normal(array.shape) * 0.1).astype(np.float32)
        for name, array in create_tensors(checkpoint.declaration, rank=4, seed=0).items()
    }
    return Adapter(key, tensors)
