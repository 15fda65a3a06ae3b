"""Adam's step (arXiv 1412.6980) over many tensors at once, on the threads that operators use."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.product import expect, point
from fluvial.errors import EngineError
from fluvial.native.library import ensure_library

Floats = NDArray[np.float32]


def measure_norm(tensors: Sequence[Floats]) -> float:
    """Return the root of the sum of all squares; the same to the bit on any number of threads."""
    total = ctypes.c_double()
    _run(
        _load().fluvial_square_sum,
        len(tensors),
        _point_all(tensors),
        _list_sizes(tensors),
        ctypes.byref(total),
    )
    return total.value**0.5


def take_adam_step(
    values: Sequence[Floats],
    gradients: Sequence[Floats],
    first: Sequence[Floats],
    second: Sequence[Floats],
    *,
    rates: Sequence[float],
    kept: Sequence[float],
    leeways: Sequence[Floats | None],
    scale: float,
    decays: tuple[float, float],
    epsilon: float,
    steps: int,
) -> None:
    """Move `values` by step number `steps`, from 1 on, and bring the two averages forward.

    Gradients are multiplied by `scale` before. Each tensor has a rate of its own, and is multiplied
    by what is to be kept of it afterwards; `leeways`, along the last axis, are factors on the rate,
    None: one. Raises EngineError when the arguments do not fit.
    """
    if not len(values) == len(rates) == len(kept) == len(leeways):
        raise EngineError(f"{len(values)} tensors take as many rates, not {len(rates)}")
    for value, leeway in zip(values, leeways, strict=True):
        if leeway is not None:
            expect(leeway, value.shape[-1:])
    for value, *others in zip(values, gradients, first, second, strict=True):
        for other in others:
            expect(other, value.shape)
    _run(
        _load().fluvial_adam,
        len(values),
        *(_point_all(tensors) for tensors in (values, gradients, first, second)),
        _list_sizes(values),
        *((ctypes.c_float * len(each))(*each) for each in (rates, kept)),
        (ctypes.c_void_p * len(leeways))(*(None if x is None else point(x) for x in leeways)),
        (ctypes.c_int64 * len(values))(*(value.shape[-1] for value in values)),
        scale,
        *decays,
        epsilon,
        steps,
    )


def _point_all(tensors: Sequence[Floats]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(point(each) for each in tensors))


def _list_sizes(tensors: Sequence[Floats]) -> Any:
    return (ctypes.c_int64 * len(tensors))(*(each.size for each in tensors))


def _run(function: Any, *arguments: object) -> None:
    wrong = function(*arguments)
    if wrong:
        raise EngineError(f"a step failed: {wrong.decode()}")


@cache
def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(ensure_library()))
    long, pointer, real = ctypes.c_int64, ctypes.c_void_p, ctypes.c_float
    double = ctypes.c_double
    library.fluvial_square_sum.argtypes = [long, *[pointer] * 3]
    library.fluvial_adam.argtypes = [long, *[pointer] * 9, real, double, double, real, long]
    for function in (library.fluvial_square_sum, library.fluvial_adam):
        function.restype = ctypes.c_char_p
    return library
