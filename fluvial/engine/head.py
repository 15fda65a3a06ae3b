"""The output layer's loss and its gradient, from logits that are known already.

Letters: s tokens, d width, V vocabulary.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.product import check_packed
from fluvial.errors import EngineError
from fluvial.model.packing import TILE, Packed
from fluvial.native.library import ensure_library

Floats = NDArray[np.float32]

THRESHOLD = 3e-5
"""What a word's probability must be for its embedding to be followed; the others count as their
mean."""
_ROWS_AT_ONCE = 256 * TILE


class HeadGradient:
    """Goes back through an output layer, packed as the engine has it."""

    def __init__(self, packed: Packed, *, threshold: float = THRESHOLD) -> None:
        """`threshold` is above 0 and at most 1. Raises EngineError when sizes do not fit."""
        check_packed(packed)
        if not 0 < threshold <= 1:
            raise EngineError(f"a threshold must be above 0 and at most 1, not {threshold}")
        self._packed, self._threshold = packed, threshold
        self._mean_D = _average(packed)

    def __call__(
        self,
        logits_SV: Floats,
        targets_S: NDArray[np.int64],
        *,
        softcap: float | None = None,
        gradient: bool = True,
    ) -> tuple[Floats, Floats | None]:
        """Return each target's loss in nats [s], and its gradient by the head's inputs [s, d].

        Logits are those after the soft cap. Raises EngineError when the arguments do not fit.
        """
        packed, rows = self._packed, len(logits_SV)
        if logits_SV.shape != (rows, packed.outputs) or logits_SV.dtype != np.float32:
            raise EngineError(f"logits must be float32 [s, {packed.outputs}]")
        if targets_S.shape != (rows,) or targets_S.dtype != np.int64:
            raise EngineError(f"targets must be int64 [{rows}]")
        logits_SV, targets_S = np.ascontiguousarray(logits_SV), np.ascontiguousarray(targets_S)
        losses_S = np.empty(rows, np.float32)
        grad_SD = np.empty((rows, packed.inputs), np.float32) if gradient else None
        wrong = _load()(
            packed.data.ctypes.data,
            packed.data.nbytes,
            packed.outputs,
            packed.inputs,
            packed.bits,
            int(packed.has_minimum),
            packed.scale_bytes,
            logits_SV.ctypes.data,
            targets_S.ctypes.data,
            rows,
            0.0 if softcap is None else softcap,
            self._threshold,
            self._mean_D.ctypes.data,
            losses_S.ctypes.data,
            None if grad_SD is None else grad_SD.ctypes.data,
        )
        if wrong:
            raise EngineError(f"the output layer's gradient failed: {wrong.decode()}")
        if grad_SD is not None:
            grad_SD[~np.isfinite(losses_S)] = np.nan  # never a gradient that only looks sound
        return losses_S, grad_SD


def _average(packed: Packed) -> Floats:
    """Return the mean of the rows, taken a part at a time."""
    tile_bytes = packed.data.nbytes // -(-packed.outputs // TILE)
    total = np.zeros(packed.inputs)
    for start in range(0, packed.outputs, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, packed.outputs - start)
        tiles = slice(start // TILE * tile_bytes, -(-(start + rows) // TILE) * tile_bytes)
        part = Packed(
            outputs=rows,
            inputs=packed.inputs,
            bits=packed.bits,
            has_minimum=packed.has_minimum,
            scale_bytes=packed.scale_bytes,
            data=packed.data[tiles],
        )
        total += part.unpack().sum(axis=0, dtype=np.float64)
    return (total / packed.outputs).astype(np.float32)


@cache
def _load() -> Any:
    follow = ctypes.CDLL(str(ensure_library())).fluvial_follow_head
    long, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    follow.restype = ctypes.c_char_p
    follow.argtypes = [
        *(pointer, long, long, long),
        *[ctypes.c_int] * 3,
        *(pointer, pointer, long, real, real),
        *(pointer, pointer, pointer),
    ]
    return follow
