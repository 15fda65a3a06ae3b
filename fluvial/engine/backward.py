"""Norms, positions, activations and attention, natively: what a learner needs besides products.

Letters: s new tokens, t past and new ones, d width, f width of an MLP, h heads of q, g of k and v,
w head width, o outputs.
"""

import ctypes
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.product import expect, point
from fluvial.errors import EngineError
from fluvial.model.architecture.declaration import ActivationKind, Rotary
from fluvial.native.library import ensure_library

Floats = NDArray[np.float32]

THRESHOLD = 1e-3
"""How much of a token's attention a key must have for a gradient to go through it."""
_KINDS: dict[ActivationKind, int] = {"silu": 0, "gelu_tanh": 1}


class NativeBackward:
    """Goes back through the parts of a layer that have no weights; all arrays are contiguous."""

    def __init__(self, *, threshold: float = THRESHOLD) -> None:
        """`threshold` is at least 0 (nothing left out) and under 1."""
        if not 0 <= threshold < 1:
            raise EngineError(f"a threshold must be at least 0 and under 1, not {threshold}")
        self._threshold = threshold
        self._library = _load()

    def normalise(
        self, x: Floats, weight_D: Floats, *, epsilon: float, grad: Floats | None = None
    ) -> Floats:
        """Return the RMS norm of rows [..., d]; where `grad` is given, the gradient by x."""
        y, width = np.empty_like(x), x.shape[-1]
        expect(weight_D, (width,))
        if grad is not None:
            expect(grad, x.shape)
        rows = x.size // max(1, width)
        _run(
            self._library.fluvial_norm,
            point(x),
            point(weight_D),
            point(grad),
            epsilon,
            rows,
            width,
            point(y),
        )
        return y

    def activate(self, x_SF: Floats, gain_F: Floats | None, *, kind: ActivationKind) -> Floats:
        """Return activation(gate) * up * (1 + gain) of [s, gate | up]."""
        rows, width = _halve(x_SF, gain_F)
        y_SF = np.empty((rows, width), np.float32)
        _run(
            self._library.fluvial_activate,
            _KINDS[kind],
            point(x_SF),
            point(gain_F),
            None,
            rows,
            width,
            point(y_SF),
            None,
        )
        return y_SF

    def activate_back(
        self,
        x_SF: Floats,
        gain_F: Floats | None,
        grad_SF: Floats,
        *,
        kind: ActivationKind,
        gains: bool,
    ) -> tuple[Floats, Floats | None]:
        """Return the gradients by [s, gate | up], and with `gains`, by the gains."""
        rows, width = _halve(x_SF, gain_F)
        expect(grad_SF, (rows, width))
        y_SF = np.empty_like(x_SF)
        grad_F = np.empty(width, np.float32) if gains else None
        _run(
            self._library.fluvial_activate,
            _KINDS[kind],
            point(x_SF),
            point(gain_F),
            point(grad_SF),
            rows,
            width,
            point(y_SF),
            point(grad_F),
        )
        return y_SF, grad_F

    def attend_back(
        self,
        q_HSW: Floats,
        k_GTW: Floats,
        v_GTW: Floats,
        mixed_SO: Floats,
        grad_SO: Floats,
        *,
        window: int | None,
        softcap: float | None,
    ) -> tuple[Floats, Floats, Floats]:
        """Return the gradients by scaled queries, and by keys and values of the s new tokens."""
        heads, rows, width = q_HSW.shape
        groups, total, value_width = v_GTW.shape
        expect(k_GTW, (groups, total, width))
        k, k_apart = _point_heads(k_GTW)
        v, v_apart = _point_heads(v_GTW)
        expect(mixed_SO, (rows, heads * value_width))
        expect(grad_SO, mixed_SO.shape)
        grad_q = np.empty_like(q_HSW)
        grad_k = np.empty((groups, rows, width), np.float32)
        grad_v = np.empty((groups, rows, value_width), np.float32)
        _run(
            self._library.fluvial_attention_back,
            *(point(q_HSW), k, v, point(mixed_SO), point(grad_SO), k_apart, v_apart),
            *(heads, groups, rows, total - rows, width, value_width, window or 0),
            softcap or 0.0,
            self._threshold,
            *(point(each) for each in (grad_q, grad_k, grad_v)),
        )
        return grad_q, grad_k, grad_v

    def turn(
        self,
        x_HSW: Floats,
        y_HSW: Floats,
        rotary: Rotary | None,
        *,
        position: int,
        back: bool = False,
    ) -> None:
        """Write heads of tokens from `position` on to `y`, turned, or with `back` turned back.

        Heads and rows may be apart, but the features of a row follow one another; the two arrays
        share no memory.
        """
        heads, rows, width = x_HSW.shape
        expect(y_HSW, x_HSW.shape)
        start = pairs = 0
        tables: tuple[Floats | None, Floats | None] = (None, None)
        if rotary is not None:
            start, pairs = rotary.start, len(rotary.frequencies)
            tables = _tabulate(rotary, position, rows)
        _run(
            self._library.fluvial_turn,
            *(*_point_rows(x_HSW), *map(point, tables)),
            *(heads, rows, width, start, pairs),
            *(rotary is not None and rotary.interleaved, back),
            *_point_rows(y_HSW),
        )


@lru_cache(maxsize=8)
def _tabulate(rotary: Rotary, position: int, rows: int) -> tuple[Floats, Floats]:
    """Return cosines and sines [s, pairs]; all layers of one read ask for the same."""
    angles = np.outer(np.arange(position, position + rows), np.array(rotary.frequencies))
    tables = np.stack([np.cos(angles), np.sin(angles)]) * rotary.magnitude
    cosine, sine = tables.astype(np.float32)
    return cosine, sine


def _point_rows(x_HSW: Floats) -> tuple[int, int, int]:
    """Return where an array begins, and how many floats lie from head to head and row to row."""
    apart = [stride // 4 for stride in x_HSW.strides]
    if x_HSW.dtype != np.float32 or (x_HSW.shape[2] > 1 and apart[2] != 1) or min(apart) < 0:
        raise EngineError("native code takes float32 whose features follow one another")
    return x_HSW.ctypes.data, apart[0], apart[1]


def _point_heads(x_GTW: Floats) -> tuple[int, int]:
    """The same where each head's rows follow one another."""
    at, head, row = _point_rows(x_GTW)
    if x_GTW.shape[1] > 1 and row != x_GTW.shape[2]:
        raise EngineError("native code takes float32 whose rows follow one another")
    return at, head


def _halve(x_SF: Floats, gain_F: Floats | None) -> tuple[int, int]:
    rows, width = len(x_SF), x_SF.shape[1] // 2
    expect(x_SF, (rows, 2 * width))
    if gain_F is not None:
        expect(gain_F, (width,))
    return rows, width


def _run(function: Any, *arguments: object) -> None:
    wrong = function(*arguments)
    if wrong:
        raise EngineError(f"a gradient failed: {wrong.decode()}")


@cache
def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(ensure_library()))
    long, real, pointer, kind = ctypes.c_int64, ctypes.c_float, ctypes.c_void_p, ctypes.c_int
    library.fluvial_norm.argtypes = [*[pointer] * 3, real, long, long, pointer]
    library.fluvial_activate.argtypes = [kind, *[pointer] * 3, long, long, *[pointer] * 2]
    library.fluvial_attention_back.argtypes = [
        *[pointer] * 5,
        *[long] * 9,
        *[real] * 2,
        *[pointer] * 3,
    ]
    library.fluvial_turn.argtypes = [
        *(pointer, long, long, pointer, pointer),
        *[long] * 5,
        *(kind, kind),
        *(pointer, long, long),
    ]
    for function in (
        library.fluvial_norm,
        library.fluvial_activate,
        library.fluvial_attention_back,
        library.fluvial_turn,
    ):
        function.restype = ctypes.c_char_p
    return library
