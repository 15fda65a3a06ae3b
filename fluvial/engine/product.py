"""Multiply with a packed matrix outside of any graph, on the threads that operators use."""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import EngineError
from fluvial.model.packing import Packed
from fluvial.native.library import ensure_library

Floats = NDArray[np.float32]

MAX_WIDTH = 1 << 24
"""As the operators allow; products of sizes stay far from overflow."""


class Product:
    """One packed matrix, ready to multiply with; `input_bits` (8 or 15) are kept of inputs."""

    def __init__(self, packed: Packed, *, input_bits: int = 8) -> None:
        """Raises EngineError when the sizes are not those of a matrix."""
        check_packed(packed)
        self._packed, self._input_bits = packed, input_bits

    def __call__(self, x_SI: Floats) -> Floats:
        """Return x times the matrix, float32 [s, outputs]. Raises EngineError."""
        packed = self._packed
        if x_SI.ndim != 2 or x_SI.shape[1] != packed.inputs or x_SI.dtype != np.float32:
            raise EngineError(f"a product takes float32 [rows, {packed.inputs}], not {x_SI.shape}")
        x_SI = np.ascontiguousarray(x_SI)
        y_SO = np.empty((len(x_SI), packed.outputs), np.float32)
        wrong = _load()(
            packed.data.ctypes.data,
            packed.data.nbytes,
            packed.outputs,
            packed.inputs,
            packed.bits,
            int(packed.has_minimum),
            packed.scale_bytes,
            self._input_bits,
            x_SI.ctypes.data,
            len(x_SI),
            y_SO.ctypes.data,
        )
        if wrong:
            raise EngineError(f"a product failed: {wrong.decode()}")
        return y_SO


def check_packed(packed: Packed) -> None:
    """Raise EngineError unless a matrix has sizes and bytes that native code may be given."""
    data = packed.data
    if not all(1 <= size <= MAX_WIDTH for size in (packed.outputs, packed.inputs)):
        raise EngineError(f"a product takes a matrix of 1 to {MAX_WIDTH} rows and columns")
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise EngineError("a product takes a matrix whose bytes follow one another")


@cache
def _load() -> Any:
    multiply = ctypes.CDLL(str(ensure_library())).fluvial_multiply
    long, pointer = ctypes.c_int64, ctypes.c_void_p
    multiply.restype = ctypes.c_char_p
    multiply.argtypes = [
        *(pointer, long, long, long),
        *[ctypes.c_int] * 4,
        *(pointer, long, pointer),
    ]
    return multiply
