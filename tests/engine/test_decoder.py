"""The graph of every family: equal to the float module, and to itself however it is cut."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fluvial.engine.decoder import Decoder, Part
from fluvial.errors import ContextLengthError, ModelError
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.architecture.declaration import Experts
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module
from tests.families import FAMILIES, create_random_adapter, save_tiny

IDS = list(range(3, 90))
# With float32 weights, what is left is the rounding of keys and values to float16.
TOLERANCE = 5e-3
# Packed to 8 bits, in rows of only two blocks: inputs and weights are rounded in each product,
# and keys and values in the cache.
PACKED_TOLERANCE = 0.1
PACKED_MIXTURE_TOLERANCE = 0.3


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def decoder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return _load(checkpoint, tmp_path_factory.mktemp("graphs"), whole=True)


@pytest.fixture(scope="module")
def packed(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    return _load(checkpoint, tmp_path_factory.mktemp("graphs"), whole=False)


@pytest.fixture(scope="module")
def adapter(checkpoint: Checkpoint) -> Adapter:
    return Adapter("s/1", create_random_adapter(checkpoint.declaration, rank=3, seed=1))


def test_logits_equal_the_float_module(decoder: Decoder, checkpoint: Checkpoint) -> None:
    assert (
        _distance(_read(decoder, IDS), _expect(checkpoint, IDS), mixture=_is_mixture(checkpoint))
        < TOLERANCE
    )


def test_packed_logits_are_close_to_the_float_module(
    packed: Decoder, checkpoint: Checkpoint
) -> None:
    mixture = _is_mixture(checkpoint)
    distance = _distance(_read(packed, IDS), _expect(checkpoint, IDS), mixture=mixture)
    assert distance < (PACKED_MIXTURE_TOLERANCE if mixture else PACKED_TOLERANCE)


def test_a_random_adapter_acts_as_in_the_float_module(
    decoder: Decoder, checkpoint: Checkpoint, adapter: Adapter
) -> None:
    found = _read(decoder, IDS, adapter=adapter)
    assert (
        _distance(found, _expect(checkpoint, IDS, adapter), mixture=_is_mixture(checkpoint))
        < TOLERANCE
    )
    assert _distance(found, _read(decoder, IDS)) > 10 * TOLERANCE


def test_a_new_adapter_is_exactly_the_base(packed: Decoder, checkpoint: Checkpoint) -> None:
    fresh = Adapter("s/0", create_tensors(checkpoint.declaration, rank=4, seed=0))
    assert np.array_equal(_read(packed, IDS, adapter=fresh), _read(packed, IDS))


def test_steps_of_any_size_give_the_same_bits(packed: Decoder, adapter: Adapter) -> None:
    whole = _read(packed, IDS, adapter=adapter)
    for sizes in ([1] * len(IDS), [17, 1, 40, 29], [64, 23]):
        cache = packed.new_cache()
        assert packed.reserve(cache, len(IDS))
        rows, at = [], 0
        for size in sizes:
            part = Part(cache, IDS[at : at + size], adapter, range(size))
            rows.append(packed.step([part])[0])
            at += size
        packed.release(cache)
        assert np.array_equal(np.concatenate(rows), whole)


def test_a_row_is_the_same_whatever_stands_beside_it(packed: Decoder, adapter: Adapter) -> None:
    alone = [_read(packed, IDS, adapter=adapter), _read(packed, IDS[:30]), _read(packed, IDS[5:6])]
    caches = [packed.new_cache() for _ in range(3)]
    texts, adapters = [IDS, IDS[:30], IDS[5:6]], [adapter, None, None]
    for cache, text in zip(caches, texts, strict=True):
        assert packed.reserve(cache, len(text))
    parts = [
        Part(cache, text, each, range(len(text)))
        for cache, text, each in zip(caches, texts, adapters, strict=True)
    ]
    together = packed.step(parts)
    for cache in caches:
        packed.release(cache)
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_eight_sequences_have_eight_adapters(packed: Decoder, checkpoint: Checkpoint) -> None:
    adapters = [
        Adapter(f"s{n}/1", create_random_adapter(checkpoint.declaration, rank=1 + n % 3, seed=n))
        for n in range(8)
    ]
    caches = [packed.new_cache() for _ in adapters]
    assert all(packed.reserve(cache, 20) for cache in caches)
    parts = [
        Part(cache, IDS[:20], each, [19]) for cache, each in zip(caches, adapters, strict=True)
    ]
    together = packed.step(parts)
    for cache in caches:
        packed.release(cache)
    alone = [_read(packed, IDS[:20], adapter=each)[19] for each in adapters]
    assert all(np.array_equal(a[0], b) for a, b in zip(together, alone, strict=True))
    assert len({each.tobytes() for each in alone}) == 8


def test_a_fork_goes_on_as_if_it_had_read_alone(packed: Decoder) -> None:
    cache = packed.new_cache()
    packed.reserve(cache, len(IDS))
    packed.step([Part(cache, IDS[:40])])
    packed.snapshot(cache)
    packed.step([Part(cache, IDS[40:])])
    length = packed.restorable(cache, 41)
    assert length == (40 if packed.recurrent else 41)
    branch = packed.fork(cache, length)
    other = [7, 8, 9]
    assert packed.reserve(branch, length + 3)
    found = packed.step([Part(branch, other, None, [0, 1, 2])])[0]
    assert np.array_equal(found, _read(packed, IDS[:length] + other)[length:])
    # The branch wrote on pages of its own: the first one's text is as it was.
    assert packed.reserve(cache, len(IDS) + 1)
    more = packed.step([Part(cache, [5], None, [0])])[0]
    assert np.array_equal(more[0], _read(packed, [*IDS, 5])[-1])
    packed.release(branch)
    packed.release(cache)
    assert packed.free_pages == packed.total_pages


def test_what_was_cut_off_is_forgotten(packed: Decoder) -> None:
    cache = packed.new_cache()
    packed.reserve(cache, len(IDS))
    packed.step([Part(cache, IDS[:33])])
    packed.snapshot(cache)
    packed.step([Part(cache, IDS[33:])])
    packed.truncate(cache, 33)
    assert cache.tokens == IDS[:33]
    packed.reserve(cache, len(IDS))
    found = packed.step([Part(cache, IDS[50:60], None, range(10))])[0]
    assert np.array_equal(found, _read(packed, IDS[:33] + IDS[50:60])[33:])
    packed.release(cache)


def test_an_exported_cache_goes_on_where_it_was(packed: Decoder) -> None:
    cache = packed.new_cache()
    packed.reserve(cache, 50)
    packed.step([Part(cache, IDS[:50])])
    kept = packed.export(cache)
    packed.release(cache)
    again = packed.restore(IDS[:50], kept)
    assert again is not None
    packed.reserve(again, 60)
    found = packed.step([Part(again, IDS[50:60], None, range(10))])[0]
    assert np.array_equal(found, _read(packed, IDS[:60])[50:])
    packed.release(again)
    with pytest.raises(ModelError, match="shape"):
        packed.restore(IDS[:20], kept)


def test_a_step_without_room_changes_nothing(packed: Decoder) -> None:
    cache = packed.new_cache()
    assert packed.reserve(cache, 16)
    with pytest.raises(ContextLengthError, match="no room is reserved for 17"):
        packed.step([Part(cache, IDS[:17])])
    assert cache.length == 0
    assert not packed.reserve(cache, 10_000)
    with pytest.raises(ContextLengthError, match="do not fit 512"):
        packed.step([Part(cache, [3] * 600)])
    packed.release(cache)
    assert packed.free_pages == packed.total_pages


def _load(checkpoint: Checkpoint, cache_dir: Path, *, whole: bool) -> Decoder:
    folder = ensure_graph(checkpoint, cache_dir=cache_dir, positions=512, whole=whole)
    return Decoder(
        checkpoint,
        graph_folder=folder,
        context_tokens=512,
        threads=1,
        cache_bits=16 if whole else 8,  # 8 for all families, though some would choose 16
    )


def _read(decoder: Decoder, ids: list[int], *, adapter: Adapter | None = None) -> np.ndarray:
    cache = decoder.new_cache()
    assert decoder.reserve(cache, len(ids))
    logits = decoder.step([Part(cache, ids, adapter, range(len(ids)))])[0]
    decoder.release(cache)
    return logits


def _expect(checkpoint: Checkpoint, ids: list[int], adapter: Adapter | None = None) -> np.ndarray:
    module = Module(checkpoint)
    tensors = None
    if adapter is not None:
        tensors = {name: torch.from_numpy(each) for name, each in adapter.tensors.items()}
    with torch.no_grad():
        return module.logits(module.read(torch.tensor(ids), adapter=tensors)[0]).numpy()


def _distance(found: np.ndarray, expected: np.ndarray, *, mixture: bool = False) -> float:
    """Relative error; of a mixture, that of the middle token.

    In a mixture a small rounding may choose another expert for one token, and that token (and what
    attends to it) then differs as much as its experts do.
    """
    if not mixture:
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    errors = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    return float(np.median(errors))


def _is_mixture(checkpoint: Checkpoint) -> bool:
    return any(isinstance(layer.mlp, Experts) for layer in checkpoint.declaration.layers)
