"""Leave out of a stored adapter what can be made again: lossless, and a fifth of the size or less.

A first factor that was drawn from a seed is drawn again, one of a basis is taken from there; gains
that are zero are left out; numbers that float16 holds exactly are kept in it, as those of a settled
version are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.adapter import Adaptable, Tensors, create_tensors, list_shapes

Arrays = Mapping[str, NDArray[Any]]
MOST_RANK = 1024
KINDS = ("float16", "float32")


def compact(
    tensors: Tensors, *, declaration: Adaptable, seed: int, basis: Tensors | None = None
) -> dict[str, NDArray[Any]]:
    """Return what must be stored of tensors that fit the model, for `expand` with the same rest."""
    drawn = create_tensors(declaration, rank=_find_rank(tensors), seed=seed) | dict(basis or {})
    return {
        name: _narrow(array)
        for name, array in tensors.items()
        if not (_can_be_made(name) and np.array_equal(array, drawn[name]))
    }


def expand(
    kept: Arrays, *, declaration: Adaptable, seed: int, basis: Tensors | None = None
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of which `kept` was made. Raises ModelError when that is not possible."""
    rank = _find_rank(kept)
    shapes = list_shapes(declaration, rank=rank)
    missing = [name for name in shapes if name not in kept and not _can_be_made(name)]
    if missing:
        raise ModelError(f"the adapter file lacks {missing[0]!r}")
    made = create_tensors(declaration, rank=rank, seed=seed) | dict(basis or {})
    return made | {name: _widen(name, array) for name, array in kept.items()}


def _can_be_made(name: str) -> bool:
    return not name.endswith(".b")


def _find_rank(tensors: Arrays) -> int:
    ranks = {t.shape[0] for name, t in tensors.items() if name.endswith(".b") and t.ndim == 2}
    if len(ranks) != 1 or not 1 <= min(ranks) <= MOST_RANK:
        raise ModelError("the adapter file has no single rank")
    return ranks.pop()


def _narrow(array: NDArray[np.float32]) -> NDArray[Any]:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if np.array_equal(half.astype(np.float32), array) else array


def _widen(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    if array.dtype.name not in KINDS:
        raise ModelError(f"the adapter file holds {array.dtype} at {name!r}, not float16 or 32")
    return array.astype(np.float32)
