"""The decoder that runs on transformers: the decoder's promises, and a process that may die."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from fluvial.engine.fallback import FallbackCache, FallbackDecoder
from fluvial.engine.protocol import Decoder, Part
from fluvial.errors import ContextLengthError, EngineError, ModelError
from fluvial.model.adapter import Adapter, create_tensors, list_shapes
from fluvial.model.opening import open_model
from fluvial.model.outline import OutlinedCheckpoint
from tests.foreign import save_foreign

IDS = [1 + (7 * i * i + 3 * i) % 290 for i in range(60)]


@pytest.fixture(
    scope="module", params=["cohere2", pytest.param("gpt_neox", marks=pytest.mark.slow)]
)
def reference(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp(request.param)
    model = save_foreign(request.param, folder)
    model.folder = folder  # type: ignore[assignment]
    return model


@pytest.fixture(scope="module")
def checkpoint(reference: PreTrainedModel) -> OutlinedCheckpoint:
    checkpoint = open_model(Path(str(reference.folder)))
    assert isinstance(checkpoint, OutlinedCheckpoint)
    return checkpoint


@pytest.fixture(scope="module")
def shared(checkpoint: OutlinedCheckpoint) -> Iterator[FallbackDecoder]:
    token_bytes = 4 * 2 * 64 * 3 if "neox" in checkpoint.declaration.family else 4 * 2 * 32 * 4
    decoder = FallbackDecoder(
        checkpoint, context_tokens=256, threads=1, cache_bytes=320 * token_bytes
    )
    yield decoder
    decoder.close()


@pytest.fixture
def decoder(shared: FallbackDecoder) -> Iterator[FallbackDecoder]:
    yield shared
    assert shared.free_pages == shared.total_pages, "a test left pages taken"


def test_it_is_a_decoder(decoder: FallbackDecoder) -> None:
    stands_in: Decoder = decoder
    assert stands_in.total_pages == 20
    assert (stands_in.context_tokens, stands_in.vocab_size) == (256, 300)


def test_logits_are_those_of_transformers(
    decoder: FallbackDecoder, reference: PreTrainedModel
) -> None:
    with torch.no_grad():
        expected = reference(torch.tensor([IDS])).logits[0].numpy()
    cache = _begin(decoder, 60)
    (nothing,) = decoder.step([Part(cache, IDS[:50])])
    assert nothing.shape == (0, 300)
    (found,) = decoder.step([Part(cache, IDS[50:], wanted=[0, 9])])
    np.testing.assert_allclose(found, expected[[50, 59]], rtol=1e-3, atol=1e-3)
    assert cache.tokens == IDS
    decoder.release(cache)


def test_batched_is_alone_to_the_last_bit(
    decoder: FallbackDecoder, checkpoint: OutlinedCheckpoint
) -> None:
    adapters = [None, _draw(checkpoint, "s/1"), _draw(checkpoint, "s/2")]
    caches = [_begin(decoder, 60) for _ in adapters]
    pairs = list(zip(caches, adapters, strict=True))
    decoder.step([Part(cache, IDS[:59], adapter) for cache, adapter in pairs])
    together = decoder.step([Part(c, IDS[59:], a, wanted=[0]) for c, a in pairs])
    for cache in caches:
        decoder.release(cache)
    for adapter, row in zip(adapters, together, strict=True):
        np.testing.assert_array_equal(row, _answer(decoder, adapter=adapter))
    assert not np.allclose(together[0], together[1], atol=0.1)
    assert not np.allclose(together[1], together[2], atol=0.1)


def test_a_zero_adapter_is_the_base(
    decoder: FallbackDecoder, checkpoint: OutlinedCheckpoint
) -> None:
    zero = Adapter("zero", create_tensors(checkpoint.declaration, rank=4, seed=0))
    np.testing.assert_array_equal(_answer(decoder), _answer(decoder, adapter=zero))


def test_more_adapters_than_are_kept_still_act(
    decoder: FallbackDecoder, checkpoint: OutlinedCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluvial.engine.fallback.KEPT_ADAPTERS", 1)
    one, two = _draw(checkpoint, "k/1"), _draw(checkpoint, "k/2")
    first = _answer(decoder, adapter=one)
    _answer(decoder, adapter=two)
    np.testing.assert_array_equal(_answer(decoder, adapter=one), first)


def test_a_fork_goes_its_own_way(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS[:40])])
    decoder.snapshot(cache)
    decoder.step([Part(cache, [9, 9, 9])])
    assert decoder.restorable(cache, 40) == 40
    fork = decoder.fork(cache, 40)
    assert decoder.reserve(fork, 60)
    decoder.release(cache)
    (found,) = decoder.step([Part(fork, IDS[40:], wanted=[19])])
    np.testing.assert_allclose(found, _answer(decoder, cuts=(40,)), rtol=1e-5, atol=1e-5)
    decoder.release(fork)


def test_truncating_goes_back_to_where_it_was(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS[:40])])
    decoder.snapshot(cache)
    decoder.step([Part(cache, [9, 9, 9])])
    free = decoder.free_pages
    decoder.truncate(cache, 40)
    assert decoder.free_pages == free + 1
    assert decoder.reserve(cache, 60)
    (found,) = decoder.step([Part(cache, IDS[40:], wanted=[19])])
    np.testing.assert_allclose(found, _answer(decoder, cuts=(40,)), rtol=1e-5, atol=1e-5)
    decoder.truncate(cache, 0)
    assert cache.tokens == []
    decoder.release(cache)


def test_a_length_that_was_not_kept_is_refused(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS)])
    if decoder.recurrent:
        assert decoder.restorable(cache, 30) == 0
        with pytest.raises(EngineError, match="can't go back to 30"):
            decoder.fork(cache, 30)
    else:
        assert decoder.restorable(cache, 30) == 30
    decoder.release(cache)


def test_forks_share_pages_until_they_grow(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS)])
    assert decoder.free_pages == 16
    fork, other = decoder.fork(cache, 60), decoder.fork(cache, 60)
    assert decoder.free_pages == 16
    with pytest.raises(ContextLengthError):
        decoder.step([Part(fork, [5])])
    decoder.step([Part(cache, [5])])
    assert decoder.reserve(fork, 61)
    assert decoder.free_pages == 12
    assert decoder.reserve(cache, 100)
    assert decoder.free_pages == 9
    decoder.release(cache)
    assert decoder.free_pages == 12, "the other fork holds what it looked at"
    decoder.release(other)
    assert decoder.free_pages == 16
    decoder.release(fork)


def test_what_does_not_fit_is_said_and_changes_nothing(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 16)
    other = decoder.new_cache()
    assert not decoder.reserve(other, 20 * 16)
    with pytest.raises(ContextLengthError, match="17 tokens do not fit"):
        decoder.step([Part(cache, IDS[:17])])
    assert cache.length == 0
    with pytest.raises(EngineError, match="could not step"):
        decoder.step([Part(cache, [10**6])])
    assert cache.length == 0
    decoder.step([Part(cache, IDS[:16])])
    decoder.release(cache)
    decoder.release(other)


def test_a_state_comes_back_from_disk(decoder: FallbackDecoder) -> None:
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS[:40])])
    saved = decoder.export(cache)
    back = decoder.restore(IDS[:40], saved)
    assert isinstance(back, FallbackCache)
    assert decoder.reserve(back, 60)
    rows = decoder.step([Part(c, IDS[40:], wanted=[19]) for c in (cache, back)])
    np.testing.assert_array_equal(rows[0], rows[1])
    decoder.release(cache)
    decoder.release(back)
    with pytest.raises(ModelError, match="does not fit"):
        decoder.restore(IDS[:39], saved)
    filler = _begin(decoder, 300)
    assert decoder.restore(IDS[:40], saved) is None
    decoder.release(filler)


def test_a_dead_process_fails_its_answers_and_is_replaced(decoder: FallbackDecoder) -> None:
    expected = _answer(decoder)
    cache = _begin(decoder, 60)
    decoder.step([Part(cache, IDS[:50])])
    assert decoder._child is not None
    os.kill(decoder._child.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="a new one takes the next answer"):
        decoder.step([Part(cache, IDS[50:])])
    with pytest.raises(EngineError, match="was lost"):
        decoder.step([Part(cache, IDS[50:])])
    assert decoder.restorable(cache, 50) == 0
    decoder.release(cache)
    np.testing.assert_array_equal(_answer(decoder), expected)


def test_a_folder_that_changed_is_a_model_error(
    checkpoint: OutlinedCheckpoint, tmp_path: Path
) -> None:
    other = OutlinedCheckpoint(
        path=tmp_path, sha256=checkpoint.sha256, declaration=checkpoint.declaration
    )
    with pytest.raises(ModelError, match="can't be read"):
        FallbackDecoder(other, context_tokens=256, threads=1)


def _begin(decoder: FallbackDecoder, tokens: int) -> FallbackCache:
    cache = decoder.new_cache()
    assert decoder.reserve(cache, tokens)
    return cache


def _answer(
    decoder: FallbackDecoder, *, adapter: Adapter | None = None, cuts: tuple[int, ...] = (59,)
) -> np.ndarray:
    """Return the logits after all of IDS, read in steps that end at `cuts`."""
    cache = _begin(decoder, 60)
    for start, end in zip((0, *cuts), (*cuts, 60), strict=True):
        part = Part(cache, IDS[start:end], adapter, wanted=[end - start - 1])
        (found,) = decoder.step([part])
    decoder.release(cache)
    return found


def _draw(checkpoint: OutlinedCheckpoint, key: str) -> Adapter:
    rng = np.random.default_rng(len(key) + ord(key[-1]))
    shapes = list_shapes(checkpoint.declaration, rank=4)
    tensors = {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    return Adapter(key, tensors)
