"""The state that reconfigures a checkpoint for one session, and the places where it applies.

Every linear layer group `y = W x` gets a low-rank term, `y = W x + B (A x)`; linears that read the
same input (query, key and value; gate and up) share one A. Every MLP activation gets a gain,
`h * (1 + g)`. B and the gains start at zero, so that a new adapter is exactly the base.

Tensors are stored to be multiplied from the right: `a` is [inputs, rank], `b` is [rank, outputs].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import Group

Tensors = Mapping[str, NDArray[np.float32]]


class AdaptableLayer(Protocol):
    """One block: the linears that an adapter may change, and the width of its gain (0: none)."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def gain_width(self) -> int: ...


class Adaptable(Protocol):
    """What an adapter must know of a model: a Declaration is one, an Outline too."""

    @property
    def layers(self) -> Sequence[AdaptableLayer]: ...


@dataclass(frozen=True, eq=False)
class Adapter:
    """One immutable adapter. Equal keys mean equal tensors; None in its place means the base."""

    key: str
    tensors: Tensors

    @property
    def rank(self) -> int:
        return next(t.shape[1] for name, t in self.tensors.items() if name.endswith(".a"))


def list_shapes(declaration: Adaptable, *, rank: int) -> dict[str, tuple[int, ...]]:
    """Name every adapter tensor of a model with its shape, in graph order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, layer in enumerate(declaration.layers):
        for group in layer.groups:
            shapes[f"layers.{index}.{group.name}.a"] = (group.inputs, rank)
            shapes[f"layers.{index}.{group.name}.b"] = (rank, group.outputs)
        if layer.gain_width:
            shapes[f"layers.{index}.gain"] = (layer.gain_width,)
    return shapes


def create_tensors(
    declaration: Adaptable, *, rank: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Make an adapter that is exactly the base: A uniform in ±1/sqrt(inputs), B and gains zero."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in list_shapes(declaration, rank=rank).items():
        if name.endswith(".a"):
            bound = shape[0] ** -0.5
            tensors[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        else:
            tensors[name] = np.zeros(shape, np.float32)
    return tensors
