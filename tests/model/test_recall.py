"""Gradients through what the engine computed, against those of the float32 module."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fluvial.engine.backward import NativeBackward
from fluvial.engine.head import HeadGradient
from fluvial.engine.product import Product
from fluvial.engine.protocol import Part
from fluvial.engine.recorder import Recorder
from fluvial.model.adapter import Adapter
from fluvial.model.architecture.declaration import Experts
from fluvial.model.built import ensure_graph, ensure_transposed
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import AdapterTensors, Module, Past
from fluvial.model.module.linear import Linear, to_tensor
from fluvial.model.module.recall import RecalledModule
from fluvial.model.packing import pack_floats
from fluvial.model.transposed import read_transposed
from tests.families import FAMILIES, create_random_adapter

IDS = [position * 5 % 300 for position in range(7, 100)]
CHUNKS = (IDS[:50], IDS[50:])
# The last bits of a norm differ with and without a gradient; some of these models amplify them.
EXACT_TOLERANCE = 2e-4
# Of each tensor's gradient; the engine keeps keys and values in float16.
WHOLE_TOLERANCE = 4e-3
# An expert chosen with little to spare changes with the last bits.
WHOLE_MIXTURE_TOLERANCE = 2e-2
Tensors = Mapping[str, np.ndarray]
Gradients = dict[str, Tensor]
Products = Mapping[str, Product]


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def tensors(checkpoint: Checkpoint) -> Tensors:
    return create_random_adapter(checkpoint.declaration)


@pytest.fixture(scope="module")
def learned(checkpoint: Checkpoint, tensors: Tensors) -> tuple[Tensor, Gradients]:
    return _learn(checkpoint, tensors)


@pytest.fixture(scope="module")
def exact(checkpoint: Checkpoint) -> Products:
    return {
        name: Product(pack_floats(np.ascontiguousarray(matrix.T)))
        for name, matrix in _list_matrices(checkpoint).items()
    }


@pytest.fixture(scope="module")
def head(checkpoint: Checkpoint) -> HeadGradient:
    tied = checkpoint.declaration.tied_head
    matrix = checkpoint.matrix("embedding" if tied else "head")
    return HeadGradient(pack_floats(np.ascontiguousarray(matrix)), threshold=1e-30)


def test_what_the_float_module_gave_has_its_gradients(
    checkpoint: Checkpoint,
    tensors: Tensors,
    exact: Products,
    head: HeadGradient,
    learned: tuple[Tensor, Gradients],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the engine's own rounding, only the order of sums is different."""
    losses, gradients = _recall(
        checkpoint, _FloatRecorder(checkpoint, monkeypatch), exact, head, tensors
    )
    _assert_equal(losses, learned[0], EXACT_TOLERANCE)
    assert gradients.keys() == learned[1].keys() == tensors.keys()
    for name, expected in learned[1].items():
        _assert_equal(gradients[name], expected, EXACT_TOLERANCE)


def test_what_the_engine_gave_in_float32_has_the_same_gradients(
    checkpoint: Checkpoint,
    tensors: Tensors,
    exact: Products,
    head: HeadGradient,
    learned: tuple[Tensor, Gradients],
    tmp_path: Path,
) -> None:
    losses, gradients = _recall(
        checkpoint, _load(checkpoint, tmp_path, whole=True), exact, head, tensors
    )
    _assert_equal(losses, learned[0], WHOLE_TOLERANCE)
    tolerance = WHOLE_MIXTURE_TOLERANCE if _is_mixture(checkpoint) else WHOLE_TOLERANCE
    assert gradients.keys() == learned[1].keys() == tensors.keys()
    for name, expected in learned[1].items():
        _assert_equal(gradients[name], expected, tolerance)


def test_packed_transposes_carry_gradients_the_same_way(
    checkpoint: Checkpoint,
    tensors: Tensors,
    exact: Products,
    head: HeadGradient,
    learned: tuple[Tensor, Gradients],
    tmp_path: Path,
) -> None:
    recorder = _load(checkpoint, tmp_path, whole=False)
    packed = read_transposed(ensure_transposed(checkpoint, cache_dir=tmp_path)).packed
    products = {name: Product(each) for name, each in packed.items()}
    found = _recall(checkpoint, recorder, products, head, tensors)[1]
    assert _align(found, _recall(checkpoint, recorder, exact, head, tensors)[1]) > 0.9995
    if not _is_mixture(checkpoint):
        assert _align(found, learned[1]) > 0.98


def test_what_is_left_out_of_gradients_is_little(
    checkpoint: Checkpoint, tensors: Tensors, exact: Products, head: HeadGradient, tmp_path: Path
) -> None:
    recorder = _load(checkpoint, tmp_path, whole=True)
    losses, expected = _recall(checkpoint, recorder, exact, head, tensors)
    rough = HeadGradient(recorder.head)
    for backward, tolerance in ((None, 1e-3), (NativeBackward(), 1e-2)):
        found_losses, found = _recall(
            checkpoint, recorder, exact, rough, tensors, backward=backward
        )
        _assert_equal(found_losses, losses, 1e-5)
        for name, gradient in expected.items():
            _assert_equal(found[name], gradient, tolerance)


def test_what_is_not_learned_from_leaves_the_same_past(
    checkpoint: Checkpoint, tensors: Tensors, exact: Products, head: HeadGradient, tmp_path: Path
) -> None:
    recorder = _load(checkpoint, tmp_path, whole=False)
    module = RecalledModule(
        checkpoint, products=exact, head=head, backward=NativeBackward(threshold=0)
    )
    adapter, cache, live = Adapter("a", tensors), recorder.new_cache(), _thaw(tensors)
    assert recorder.reserve(cache, len(IDS))
    read = advanced = None
    for chunk in (IDS[:40], IDS[40:41], IDS[41:]):
        recorder.step([Part(cache, chunk, adapter)])
        _, read = module.read(recorder.outputs, adapter=live, past=read)
        advanced = module.advance(recorder.outputs, advanced)
        assert read.tokens == advanced.tokens == cache.length
        pairs = zip(read.states, advanced.states, strict=True)
        for found, expected in (each for pair in pairs for each in zip(*pair, strict=True)):
            assert not found.requires_grad
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    recorder.release(cache)


def test_layers_below_the_first_that_learns_change_no_gradient_above(
    checkpoint: Checkpoint, tensors: Tensors, exact: Products, head: HeadGradient, tmp_path: Path
) -> None:
    recorder = _load(checkpoint, tmp_path, whole=True)
    _, whole = _recall(checkpoint, recorder, exact, head, tensors)
    _, upper = _recall(checkpoint, recorder, exact, head, tensors, first_layer=1)
    assert {name for name in whole if not name.startswith("layers.0.")} == upper.keys()
    for name, gradient in upper.items():
        _assert_equal(gradient, whole[name], 1e-4)


class _FloatRecorder:
    """Tells what the linears of the float32 module give, as the engine's recorder does."""

    def __init__(self, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
        self._module, self._past = Module(checkpoint), None
        self.outputs: dict[str, np.ndarray] = {}
        self._embedding = to_tensor(checkpoint.matrix("embedding"))
        self._embedding = self._embedding * checkpoint.declaration.embedding_scale
        run = Linear.__call__

        def record(linear: Linear, x: Tensor, adapter: AdapterTensors | None) -> Tensor:
            y = run(linear, x, adapter)
            if not torch.is_grad_enabled():
                self._keep(linear.name, y)
            return y

        monkeypatch.setattr(Linear, "__call__", record)

    def new_cache(self) -> None:
        return None

    def reserve(self, cache: None, tokens: int) -> bool:
        return True

    def release(self, cache: None) -> None:
        return None

    @torch.no_grad()
    def step(self, parts: Sequence[Part]) -> list[np.ndarray]:
        ids, adapter = torch.tensor(parts[0].tokens), parts[0].adapter
        assert adapter is not None
        live = {name: torch.from_numpy(each) for name, each in adapter.tensors.items()}
        self._keep("embedded", self._embedding[ids])
        hidden, self._past = self._module.read(ids, adapter=live, past=self._past)
        return [self._module.logits(hidden).numpy()]

    def _keep(self, name: str, y: Tensor) -> None:
        """Write to the same memory at every step, as the engine's recorder does."""
        room = self.outputs.get(name)
        if room is None:
            room = np.empty((len(IDS), y.shape[1]), np.float32)
        room = room if room.base is None else room.base
        self.outputs[name] = room[: len(y)]
        self.outputs[name][:] = y.numpy()


def _recall(
    checkpoint: Checkpoint,
    recorder: Any,
    products: Products,
    head: HeadGradient,
    tensors: Tensors,
    *,
    first_layer: int = 0,
    backward: NativeBackward | None = None,
) -> tuple[Tensor, Gradients]:
    """Read the chunks by the engine, go back through each; return the last one's losses, and
    the sum of gradients."""
    backward = backward or NativeBackward(threshold=0)
    module = RecalledModule(checkpoint, products=products, head=head, backward=backward)
    adapter, cache, live, past = Adapter("a", tensors), recorder.new_cache(), _thaw(tensors), None
    assert recorder.reserve(cache, len(IDS))
    losses = torch.zeros(0)
    for chunk in CHUNKS:
        logits = recorder.step([Part(cache, chunk[:-1], adapter, range(len(chunk) - 1))])[0]
        hidden, past = module.read(
            recorder.outputs, adapter=live, past=past, first_layer=first_layer
        )
        losses = module.losses(hidden, logits, torch.tensor(chunk[1:]))
        losses.mean().backward()
        past = _detach(past)
    recorder.release(cache)
    return losses.detach(), _gradients(live)


def _learn(checkpoint: Checkpoint, tensors: Tensors) -> tuple[Tensor, Gradients]:
    """Do the same by the float32 module."""
    module, live, past = Module(checkpoint), _thaw(tensors), None
    losses = torch.zeros(0)
    for chunk in CHUNKS:
        hidden, past = module.read(torch.tensor(chunk[:-1]), adapter=live, past=past)
        losses = module.losses(hidden, torch.tensor(chunk[1:]))
        losses.mean().backward()
        past = _detach(past)
    return losses.detach(), _gradients(live)


def _list_matrices(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for index, layer in enumerate(checkpoint.declaration.layers):
        for group in layer.groups:
            parts = [checkpoint.matrix(f"layers.{index}.{part}") for part, _ in group.parts]
            found[f"layers.{index}.{group.name}"] = np.concatenate(parts)
    return found


def _load(checkpoint: Checkpoint, cache_dir: Path, *, whole: bool) -> Recorder:
    folder = ensure_graph(checkpoint, cache_dir=cache_dir, positions=512, whole=whole)
    return Recorder(checkpoint, graph_folder=folder, context_tokens=512, threads=1, cache_bits=16)


def _thaw(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.from_numpy(each.copy()).requires_grad_() for name, each in tensors.items()}


def _detach(past: Past) -> Past:
    return Past(past.tokens, tuple(tuple(each.detach() for each in state) for state in past.states))


def _gradients(live: Mapping[str, Tensor]) -> Gradients:
    gradients: Gradients = {}
    for name, tensor in live.items():
        if tensor.grad is not None:
            gradients[name] = tensor.grad
    return gradients


def _align(found: Gradients, expected: Gradients) -> float:
    """Return the cosine between two gradients of all tensors."""
    joined = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
    return float(torch.nn.functional.cosine_similarity(*joined, dim=0))


def _assert_equal(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert float((found - expected).norm()) <= tolerance * float(expected.norm())


def _is_mixture(checkpoint: Checkpoint) -> bool:
    return any(isinstance(layer.mlp, Experts) for layer in checkpoint.declaration.layers)
