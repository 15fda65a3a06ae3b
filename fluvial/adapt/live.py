"""One session's adapter while it learns: tensors, and how often they have changed."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.adapt.rule import Rule
from fluvial.model.adapter import Adapter, Tensors

_numbers = itertools.count()


class Live:
    """Tensors that change in place; each state of them has a `key` of its own.

    `trained` are those that the rule moves, and that take gradients; none of them is in a layer
    before `first_layer`.
    """

    def __init__(self, tensors: Tensors, *, rule: Rule) -> None:
        # In one order, in which gradients are summed up: files give another with each opening.
        self.tensors = {name: torch.from_numpy(np.array(tensors[name])) for name in sorted(tensors)}
        layers = 1 + max(find_layer(name) for name in self.tensors)
        self.first_layer = min(layers - 1, round((1 - rule.depth) * layers))
        self.trained: dict[str, Tensor] = {
            name: tensor.requires_grad_()
            for name, tensor in self.tensors.items()
            if rule.trains(name) and find_layer(name) >= self.first_layer
        }
        self._good = self._copy()
        self.touch()

    def touch(self) -> None:
        """Say that the tensors have changed."""
        self.key = f"live/{next(_numbers)}"

    def freeze(self) -> Adapter:
        """Return this state as an adapter that shares the memory: valid until the next change."""
        arrays = {name: tensor.detach().numpy() for name, tensor in self.tensors.items()}
        return Adapter(self.key, arrays)

    def export(self) -> dict[str, NDArray[np.float32]]:
        """Copy the tensors out."""
        return {name: tensor.detach().numpy().copy() for name, tensor in self.tensors.items()}

    def keep(self) -> None:
        """Make this the state that `go_back` returns to."""
        self._good = self._copy()

    @torch.no_grad()
    def go_back(self) -> None:
        """Return to the state of the last `keep`, or of the beginning."""
        for name, tensor in self.trained.items():
            tensor.copy_(self._good[name])
        self.touch()

    @torch.no_grad()
    def set(self, tensors: Tensors) -> None:
        """Take over what is trained from `tensors`."""
        for name, tensor in self.trained.items():
            tensor.copy_(torch.from_numpy(np.asarray(tensors[name])))
        self.touch()

    @torch.no_grad()
    def round(self) -> None:
        """Round what is trained to float16, as it is stored, so that storing loses nothing."""
        for tensor in self.trained.values():
            tensor.copy_(tensor.half().float())
        self.touch()

    def is_finite(self) -> bool:
        """Whether every trained number would also be finite when stored."""
        return all(bool(tensor.half().isfinite().all()) for tensor in self.trained.values())

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self.trained.items()}


def find_layer(name: str) -> int:
    """Return the layer of an adapter's tensor, such as 3 of `layers.3.qkv.a`."""
    return int(name.split(".", 2)[1])
