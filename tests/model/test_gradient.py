"""Gradients that native code makes, against PyTorch's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.engine.backward import NativeBackward
from fluvial.engine.product import Product
from fluvial.errors import EngineError
from fluvial.model.architecture.declaration import ActivationKind
from fluvial.model.module.attention import attend
from fluvial.model.module.gradient import (
    Known,
    NativeActivation,
    NativeAttention,
    NativeNorm,
    Scoring,
)
from fluvial.model.module.linear import activate
from fluvial.model.packing import pack_floats
from fluvial.native.library import use_threads

WHOLE = NativeBackward(threshold=0)
KINDS: tuple[ActivationKind, ...] = ("silu", "gelu_tanh")


@pytest.mark.parametrize("shape", [(1, 1), (7, 64), (3, 5, 24), (40, 100), (0, 8)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_norm(shape: tuple[int, ...], scale: float) -> None:
    x, weight = (scale * _draw(*shape)).requires_grad_(), _draw(shape[-1])
    expected = F.rms_norm(x, (shape[-1],), weight, 1e-5)
    found = NativeNorm.apply(x, weight, 1e-5, WHOLE)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    _compare(found, expected, [x], atol=1e-5 / scale)


def test_norm_of_heads_that_do_not_follow_one_another() -> None:
    x, weight = _draw(6, 3, 8).requires_grad_(), _draw(8)
    view = x.transpose(0, 1)
    found = NativeNorm.apply(view, weight, 1e-6, WHOLE)
    _compare(found, F.rms_norm(view, (8,), weight, 1e-6), [x])


def test_norm_of_zeros() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    y = NativeNorm.apply(x, torch.ones(8), 1e-6, WHOLE)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert not y.any()
    assert torch.isfinite(grad).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gains", [True, False])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 16), (70, 37), (0, 4)])
def test_activation(kind: ActivationKind, gains: bool, rows: int, width: int) -> None:
    x, gain = (3 * _draw(rows, 2 * width)).requires_grad_(), _draw(width).requires_grad_()
    gate, up = x.chunk(2, dim=-1)
    expected = activate(gate, kind) * up * ((1 + gain) if gains else 1)
    found = NativeActivation.apply(x, gain if gains else None, kind, WHOLE)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    _compare(found, expected, [x, gain] if gains else [x])


@pytest.mark.parametrize("kind", KINDS)
def test_activation_far_from_zero(kind: ActivationKind) -> None:
    x = torch.tensor([[-200.0, -30, -5, 5, 30, 200] + [1.0] * 6], requires_grad=True)
    gate, up = x.chunk(2, dim=-1)
    _compare(NativeActivation.apply(x, None, kind, WHOLE), activate(gate, kind) * up, [x])


@pytest.mark.parametrize("window", [None, 1, 5, 64, 100, 1000])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(
    ("num_new", "past"), [(1, 0), (1, 30), (3, 2), (64, 0), (65, 90), (150, 40)]
)
def test_attention(num_new: int, past: int, softcap: float | None, window: int | None) -> None:
    scoring = Scoring(scale=0.4, window=window, softcap=softcap)
    qkv, known, expected = _attend(num_new, past, scoring)
    found = NativeAttention.apply(qkv, known, _Apart(WHOLE), scoring)
    assert torch.equal(found, expected)
    _compare(found, expected, [qkv])


@pytest.mark.parametrize("width", [16, 64, 65])
def test_attention_leaves_out_what_little_looks_at(width: int) -> None:
    scoring = Scoring(scale=width**-0.5)
    qkv, known, expected = _attend(48, 100, scoring, width=width, sharp=3)
    slope = _draw(*expected.shape)
    rough, exact = (
        torch.autograd.grad(
            (NativeAttention.apply(qkv, known, _Apart(native), scoring) * slope).sum(), [qkv]
        )[0].split([48 * width * 6, 48 * width * 2, 48 * 10 * 2])
        for native in (NativeBackward(), WHOLE)
    )
    for one, other in zip(rough, exact, strict=True):
        assert 0 < float((one - other).norm()) < 0.02 * float(other.norm())


def test_attention_with_room_behind_keys_and_values() -> None:
    scoring = Scoring(scale=0.4)
    qkv, known, expected = _attend(5, 40, scoring)
    k, v = (torch.full((2, 99, each.shape[2]), torch.nan) for each in (known.k_GTW, known.v_GTW))
    k[:, :45], v[:, :45] = known.k_GTW, known.v_GTW
    apart = replace(known, k_GTW=k[:, :45], v_GTW=v[:, :45])
    _compare(NativeAttention.apply(qkv, apart, _Apart(WHOLE), scoring), expected, [qkv])


@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, True), (False, True, False)])
@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "rank"),
    [(1, 1, 1, 1), (5, 40, 33, 3), (37, 300, 520, 8), (8, 64, 48, 17), (0, 8, 8, 2)],
)
def test_linear(
    rows: int, inputs: int, outputs: int, rank: int, wanted: tuple[bool, bool, bool]
) -> None:
    matrix = _draw(outputs, inputs)
    x, a, b = (each.requires_grad_() for each in _low_rank(rows, inputs, outputs, rank))
    slope = _draw(rows, outputs)
    y = x @ matrix.T + (x @ a) @ b
    expected = torch.autograd.grad((y * slope).sum(), [x, a, b])
    product = Product(pack_floats(np.ascontiguousarray(matrix.numpy().T)))
    arrays = [each.detach().numpy() for each in (x, a, b)]
    x_SI, a_IR, b_RO = arrays
    found = product.go_back(x_SI, a_IR, b_RO, slope.numpy(), wanted=wanted)
    for each, asked, exact in zip(found, wanted, expected, strict=True):
        assert (each is not None) == asked
        if each is not None:
            np.testing.assert_allclose(each, exact.numpy(), rtol=1e-3, atol=1e-3)


def test_threads_do_not_change_a_bit() -> None:
    results: list[list[bytes]] = []
    try:
        for threads in (1, 2, 3):
            use_threads(threads)
            results.append([each.tobytes() for each in _run_all()])
    finally:
        use_threads(1)
    assert results[0] == results[1] == results[2]


WRONG: list[Callable[[], Any]] = [
    lambda: WHOLE.normalise(_array(2, 8), _array(7), epsilon=1e-5),
    lambda: WHOLE.normalise(_array(2, 8), _array(8), epsilon=1e-5, grad=_array(3, 8)),
    lambda: WHOLE.normalise(_array(8, 2).T, _array(8), epsilon=1e-5),
    lambda: WHOLE.activate(_array(2, 7), None, kind="silu"),
    lambda: WHOLE.activate(_array(2, 8), _array(8), kind="silu"),
    lambda: WHOLE.attend_back(
        _array(3, 2, 8), *[_array(2, 4, 8)] * 2, *[_array(2, 24)] * 2, window=None, softcap=None
    ),
    lambda: WHOLE.attend_back(
        _array(2, 5, 8), *[_array(2, 4, 8)] * 2, *[_array(5, 16)] * 2, window=None, softcap=None
    ),
    lambda: Product(pack_floats(_array(8, 4))).go_back(
        _array(2, 8), _array(8, 2), _array(2, 5), _array(2, 4), wanted=(True, True, True)
    ),
    lambda: NativeBackward(threshold=1),
]


@pytest.mark.parametrize("call", WRONG)
def test_arrays_that_do_not_fit_are_refused(call: Callable[[], Any]) -> None:
    with pytest.raises(EngineError, match="native code takes|a gradient failed|a threshold"):
        call()


def _attend(
    num_new: int, past: int, scoring: Scoring, *, width: int = 8, sharp: float = 1
) -> tuple[Tensor, Known, Tensor]:
    """Return q, new k and v in one row, what is known, and the result, which depends on them."""
    parts = sharp * _draw(6, num_new, width), _draw(2, num_new, width), _draw(2, num_new, 10)
    qkv = torch.cat([part.flatten() for part in parts]).requires_grad_()
    split = qkv.split([part.numel() for part in parts])
    q, k, v = (one.view_as(part) for one, part in zip(split, parts, strict=True))
    whole_k = torch.cat([_draw(2, past, width), k], dim=1)
    whole_v = torch.cat([_draw(2, past, 10), v], dim=1)
    mixed = attend(q, whole_k, whole_v, scoring)
    known = Known(q.detach(), whole_k.detach(), whole_v.detach(), mixed.detach(), past)
    return qkv, known, mixed


class _Apart:
    """Queries, keys and values that lie one after the other, and do not turn."""

    def __init__(self, native: NativeBackward) -> None:
        self.native = native

    def join(self, qkv_SO: Any, grads: Any, *, position: int) -> Any:
        return np.concatenate([each.ravel() for each in grads])


def _low_rank(rows: int, inputs: int, outputs: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    return _draw(rows, inputs), _draw(inputs, rank), _draw(rank, outputs)


def _run_all() -> list[Any]:
    qkv, known, _ = _attend(70, 50, Scoring(scale=0.3))
    found = NativeAttention.apply(qkv, known, _Apart(NativeBackward()), Scoring(scale=0.3))
    grads = [*torch.autograd.grad((found * known.mixed_SO).sum(), [qkv])]
    x, a, b = (each.numpy() for each in _low_rank(70, 96, 530, 8))
    product = Product(pack_floats(_draw(96, 530).numpy()))
    linear = product.go_back(x, a, b, _draw(70, 530).numpy(), wanted=(True, True, True))
    gate_up, gain, grad = _draw(70, 64).numpy(), _draw(32).numpy(), _draw(70, 32).numpy()
    wide = WHOLE.activate_back(gate_up, gain, grad, kind="silu", gains=True)
    return [*(each.numpy() for each in grads), *linear, *wide]


def _compare(found: Tensor, expected: Tensor, inputs: list[Tensor], *, atol: float = 1e-5) -> None:
    slope = _draw(*expected.shape)
    ours = torch.autograd.grad((found * slope).sum(), inputs)
    theirs = torch.autograd.grad((expected * slope).sum(), inputs)
    for each, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each, other, rtol=2e-4, atol=atol)


def _draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


def _array(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)
