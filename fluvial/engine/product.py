"""Multiply with a packed matrix outside of any graph, on the threads that operators use.

Letters: s rows, i inputs, o outputs, r rank.
"""

import ctypes
from functools import cache

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
        self._packed = packed
        self._matrix = (
            packed.data.ctypes.data,
            packed.data.nbytes,
            packed.outputs,
            packed.inputs,
            packed.bits,
            int(packed.has_minimum),
            packed.scale_bytes,
            input_bits,
        )

    def __call__(self, x_SI: Floats) -> Floats:
        """Return x times the matrix, float32 [s, outputs]. Raises EngineError."""
        packed = self._packed
        if x_SI.ndim != 2 or x_SI.shape[1] != packed.inputs or x_SI.dtype != np.float32:
            raise EngineError(f"a product takes float32 [rows, {packed.inputs}], not {x_SI.shape}")
        x_SI = np.ascontiguousarray(x_SI)
        y_SO = np.empty((len(x_SI), packed.outputs), np.float32)
        rows = len(x_SI)
        wrong = _load().fluvial_multiply(*self._matrix, point(x_SI), rows, point(y_SO))
        if wrong:
            raise EngineError(f"a product failed: {wrong.decode()}")
        return y_SO

    def go_back(
        self,
        x_SI: Floats,
        a_IR: Floats,
        b_RO: Floats,
        grad_SO: Floats,
        *,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Floats | None, Floats | None, Floats | None]:
        """Return the gradients of `W x + B (A x)` by x, a and b, this matrix being W's transpose.

        `wanted` says which; the others are None. Raises EngineError.
        """
        packed, rows, rank = self._packed, len(x_SI), a_IR.shape[1]
        expect(x_SI, (rows, packed.outputs))
        expect(a_IR, (packed.outputs, rank))
        expect(b_RO, (rank, packed.inputs))
        expect(grad_SO, (rows, packed.inputs))
        grads = [
            np.empty_like(each) if asked else None
            for each, asked in zip((x_SI, a_IR, b_RO), wanted, strict=True)
        ]
        pointers = [point(each) for each in (x_SI, a_IR, b_RO, grad_SO)]
        wrong = _load().fluvial_linear_back(
            *self._matrix, *pointers, rows, rank, *(point(each) for each in grads)
        )
        if wrong:
            raise EngineError(f"a gradient failed: {wrong.decode()}")
        return grads[0], grads[1], grads[2]


def check_packed(packed: Packed) -> None:
    """Raise EngineError unless a matrix has sizes and bytes that native code may be given."""
    data = packed.data
    if not all(1 <= size <= MAX_WIDTH for size in (packed.outputs, packed.inputs)):
        raise EngineError(f"a product takes a matrix of 1 to {MAX_WIDTH} rows and columns")
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise EngineError("a product takes a matrix whose bytes follow one another")


def expect(array: Floats, shape: tuple[int, ...]) -> None:
    """Raise EngineError unless an array has this shape."""
    if array.shape != shape:
        raise EngineError(f"native code takes float32 {list(shape)}, not {list(array.shape)}")


def point(array: Floats | None) -> int | None:
    """Return where an array begins, for native code; None: NULL. Raises EngineError."""
    if array is None:
        return None
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise EngineError("native code takes float32 whose rows follow one another")
    if array.size and array.flags.writeable:  # a third of the time that `ctypes.data` takes
        kept = ctypes.c_char.from_buffer(array)  # pyright: ignore[reportArgumentType]
        return ctypes.addressof(kept)
    return array.ctypes.data


@cache
def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(ensure_library()))
    long, pointer, number = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    matrix = [pointer, long, long, long, *[number] * 4]
    library.fluvial_multiply.argtypes = [*matrix, pointer, long, pointer]
    library.fluvial_linear_back.argtypes = [*matrix, *[pointer] * 4, long, long, *[pointer] * 3]
    for function in (library.fluvial_multiply, library.fluvial_linear_back):
        function.restype = ctypes.c_char_p
    return library
