"""What `transformers` remembers of one sequence: kept, copied, cut, written out and read back.

A state is never changed once it is made: a step copies it first. The copy of a layer that only
appends (`DynamicLayer`) shares its tensors, for it makes new ones when it grows; what others
overwrite in place is copied whole.
"""

import copy
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from fluvial.errors import ModelError

Arrays = dict[str, NDArray[np.float32]]


class State:
    """The cache after `length` tokens."""

    def __init__(self, cache: Cache, *, length: int) -> None:
        self._cache = cache
        self.length = length

    @property
    def can_trim(self) -> bool:
        """Whether every layer keeps all tokens, so that the last ones can be taken off."""
        return all(type(layer) is DynamicLayer for layer in self._cache.layers)

    def copy_cache(self) -> Cache:
        """Return a cache that may be appended to without changing this state."""
        return _copy(self._cache)

    def trim(self, length: int) -> "State":
        """Return the state after the first `length` >= 1 tokens; whole only where `can_trim`."""
        cache = _copy(self._cache)
        for layer in cache.layers:
            if type(layer) is DynamicLayer and layer.is_initialized:
                kept = cast(Any, layer)
                kept.keys, kept.values = kept.keys[..., :length, :], kept.values[..., :length, :]
        return State(cache, length=length)

    def strip(self) -> "State":
        """Return what `rewind` needs of this state: all but the layers that keep every token."""
        cache = _copy(self._cache)
        for layer in cache.layers:
            if type(layer) is DynamicLayer:
                cast(Any, layer).keys = cast(Any, layer).values = None
        return State(cache, length=self.length)

    def rewind(self, stripped: "State") -> "State":
        """Return the earlier state of this sequence of which `stripped` was kept."""
        trimmed, cache = self.trim(stripped.length), _copy(stripped._cache)
        cache.layers = [
            whole if type(whole) is DynamicLayer else kept
            for whole, kept in zip(trimmed._cache.layers, cache.layers, strict=True)
        ]
        return State(cache, length=stripped.length)

    def count_bytes(self) -> int:
        """Return the size of all tensors."""
        return sum(t.nbytes for layer in self._cache.layers for t in _list_tensors(layer).values())

    def export(self) -> Arrays:
        """Copy out every tensor, as `N.NAME` for layer N."""
        return {
            f"{index}.{name}": tensor.contiguous().numpy().copy()
            for index, layer in enumerate(self._cache.layers)
            for name, tensor in _list_tensors(layer).items()
        }


def restore(like: State, tensors: Mapping[str, NDArray[np.float32]], *, length: int) -> State:
    """Make a state of `length` tokens from what `export` gave; `like` is any state of the model.

    Raises ModelError when the tensors don't fit.
    """
    cache = copy.deepcopy(like.copy_cache())
    expected: set[str] = set()
    for index, layer in enumerate(cache.layers):
        for name, old in _list_tensors(layer).items():
            expected.add(f"{index}.{name}")
            array = tensors.get(f"{index}.{name}")
            if array is None or not _fits(array, old, name, type(layer) is DynamicLayer, length):
                raise ModelError(f"a saved state does not fit this model at {index}.{name}")
            _put(layer, name, torch.from_numpy(array.copy()))
        if hasattr(layer, "cumulative_length"):
            cast(Any, layer).cumulative_length = length
    if expected != set(tensors):
        raise ModelError("a saved state holds tensors that this model does not have")
    return State(cache, length=length)


def _copy(cache: Cache) -> Cache:
    made = copy.copy(cache)
    made.layers = [
        copy.copy(layer) if type(layer) is DynamicLayer else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return made


def _list_tensors(layer: Any) -> dict[str, Tensor]:
    """Return a layer's float tensors by attribute; those in lists or dicts as NAME/KEY."""
    found: dict[str, Any] = {}
    for name, value in vars(layer).items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, dict):
            found |= {f"{name}/{key}": value[key] for key in cast("dict[Any, Any]", value)}
        elif isinstance(value, list):
            found |= {f"{name}/{i}": each for i, each in enumerate(cast("list[Any]", value))}
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _put(layer: Any, name: str, tensor: Tensor) -> None:
    attribute, _, key = name.partition("/")
    if not key:
        setattr(layer, attribute, tensor)
        return
    holder = getattr(layer, attribute)
    holder[next(k for k in _list_keys(holder) if str(k) == key)] = tensor


def _list_keys(holder: Any) -> list[Any]:
    if isinstance(holder, dict):
        return list(cast("dict[Any, Any]", holder))
    return list(range(len(holder)))


def _fits(array: NDArray[np.float32], old: Tensor, name: str, keeps_all: bool, length: int) -> bool:
    if array.dtype != np.float32 or array.ndim != old.ndim:
        return False
    if name not in ("keys", "values"):
        return array.shape == tuple(old.shape)
    tokens, rest = array.shape[-2], (*array.shape[:-2], array.shape[-1])
    long_enough = tokens == length if keeps_all else 1 <= tokens <= length
    return rest == (*old.shape[:-2], old.shape[-1]) and long_enough
