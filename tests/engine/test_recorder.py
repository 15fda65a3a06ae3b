"""What a recorder tells of its steps, and that telling it changes nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fluvial.engine.decoder import Cache, Decoder
from fluvial.engine.protocol import Part
from fluvial.engine.recorder import EMBEDDED, Recorder
from fluvial.model.adapter import Adapter
from fluvial.model.architecture.declaration import Attention
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module
from fluvial.model.module.linear import Linear
from tests.families import create_random_adapter, save_tiny

IDS = list(range(3, 90))
FAMILIES = ("llama-tied", "qwen2", "gemma3-capped", "lfm2", "qwen3-next", "deepseek-v3")
Pair = tuple[Decoder, Recorder]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(request.param, folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def pair(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = ensure_graph(checkpoint, cache_dir=tmp_path_factory.mktemp("graphs"), positions=512)
    return (
        Decoder(checkpoint, graph_folder=folder, context_tokens=512, threads=1),
        Recorder(checkpoint, graph_folder=folder, context_tokens=512, threads=1),
    )


@pytest.fixture(scope="module")
def adapter(checkpoint: Checkpoint) -> Adapter:
    return Adapter("s/1", create_random_adapter(checkpoint.declaration, rank=3))


def test_logits_are_those_of_the_decoder_to_the_last_bit(pair: Pair, adapter: Adapter) -> None:
    for each in (None, adapter):
        plain, recorded = (_read(decoder, each) for decoder in pair)
        assert np.array_equal(plain, recorded)


def test_every_group_is_told_of(pair: Pair, checkpoint: Checkpoint) -> None:
    _, recorder = pair
    _read(recorder, None)
    expected = {
        f"layers.{index}.{group.name}": (7, group.outputs)
        for index, layer in enumerate(checkpoint.declaration.layers)
        for group in layer.groups
    }
    expected |= {
        f"layers.{index}.attended": (7, layer.mixer.o.inputs)
        for index, layer in enumerate(checkpoint.declaration.layers)
        if isinstance(layer.mixer, Attention)
    }
    expected[EMBEDDED] = (7, checkpoint.declaration.width)
    assert {name: each.shape for name, each in recorder.outputs.items()} == expected


def test_outputs_are_what_the_linears_of_the_float_module_give(
    checkpoint: Checkpoint, adapter: Adapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ensure_graph(checkpoint, cache_dir=tmp_path, positions=512, whole=True)
    recorder = Recorder(
        checkpoint, graph_folder=folder, context_tokens=512, threads=1, cache_bits=16
    )
    _step(recorder, recorder.new_cache(), IDS[:40], adapter)
    given: dict[str, torch.Tensor] = {}
    run = Linear.__call__

    def keep(linear: Linear, x: torch.Tensor, adapter: dict[str, torch.Tensor]) -> torch.Tensor:
        given[linear.name] = run(linear, x, adapter)
        return given[linear.name]

    monkeypatch.setattr(Linear, "__call__", keep)
    tensors = {name: torch.from_numpy(each) for name, each in adapter.tensors.items()}
    Module(checkpoint).read(torch.tensor(IDS[:40]), adapter=tensors)
    for name, expected in given.items():
        errors = np.linalg.norm(recorder.outputs[name] - expected.numpy(), axis=1)
        # Of a mixture, some tokens have gone to another expert.
        assert np.median(errors / np.linalg.norm(expected.numpy(), axis=1)) < 5e-3, name


def test_steps_of_any_size_tell_the_same_bits(pair: Pair, adapter: Adapter) -> None:
    _, recorder = pair
    cache = recorder.new_cache()
    _step(recorder, cache, IDS, adapter)
    whole = {name: each.copy() for name, each in recorder.outputs.items()}
    recorder.release(cache)
    cache, at = recorder.new_cache(), 0
    for size in (1, 30, 5, 40, 11):
        _step(recorder, cache, IDS[at : at + size], adapter)
        for name, told in recorder.outputs.items():
            assert np.array_equal(told, whole[name][at : at + size]), name
        at += size
    assert at == len(IDS)
    recorder.release(cache)


def test_memory_is_kept_from_step_to_step(pair: Pair) -> None:
    _, recorder = pair
    cache = recorder.new_cache()
    _step(recorder, cache, IDS[:40], None)
    places = {name: each.ctypes.data for name, each in recorder.outputs.items()}
    _step(recorder, cache, IDS[40:60], None)
    assert {name: each.ctypes.data for name, each in recorder.outputs.items()} == places
    recorder.release(cache)


def test_parts_follow_one_another(pair: Pair, adapter: Adapter) -> None:
    """Each part's rows are those it has alone, with its adapter and its wanted logits."""
    plain, recorder = pair
    parts = [(IDS[:20], adapter, (3, 19)), (IDS[5:6], None, ()), (IDS[30:63], adapter, (0,))]
    alone: list[dict[str, np.ndarray]] = []
    logits: list[np.ndarray] = []
    for ids, each, wanted in parts:
        cache = recorder.new_cache()
        logits.append(_step(plain, plain.new_cache(), ids, each, wanted))
        _step(recorder, cache, ids, each, wanted)
        alone.append({name: told.copy() for name, told in recorder.outputs.items()})
        recorder.release(cache)
    caches = [recorder.new_cache() for _ in parts]
    assert all(recorder.reserve(cache, 40) for cache in caches)
    found = recorder.step(
        [
            Part(cache, ids, each, wanted)
            for cache, (ids, each, wanted) in zip(caches, parts, strict=True)
        ]
    )
    assert all(np.array_equal(a, b) for a, b in zip(found, logits, strict=True))
    for name, told in recorder.outputs.items():
        assert np.array_equal(told, np.concatenate([each[name] for each in alone])), name
    for cache in caches:
        recorder.release(cache)


def test_a_step_that_wants_no_logits_tells_its_outputs(pair: Pair) -> None:
    _, recorder = pair
    assert _step(recorder, recorder.new_cache(), IDS[:9], None, ()).shape[0] == 0
    assert all(len(told) == 9 for told in recorder.outputs.values())


def _read(decoder: Decoder, adapter: Adapter | None) -> np.ndarray:
    """Read in three steps, of which each later one is smaller."""
    cache = decoder.new_cache()
    cuts = (IDS[:50], IDS[50:80], IDS[80:])
    logits = [_step(decoder, cache, ids, adapter).copy() for ids in cuts]
    decoder.release(cache)
    return np.concatenate(logits)


def _step(
    decoder: Decoder,
    cache: Cache,
    ids: list[int],
    adapter: Adapter | None,
    wanted: tuple[int, ...] | None = None,
) -> np.ndarray:
    assert decoder.reserve(cache, cache.length + len(ids))
    return decoder.step([Part(cache, ids, adapter, range(len(ids)) if wanted is None else wanted)])[
        0
    ]
