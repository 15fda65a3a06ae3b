"""What every mixer and every MLP of a layer can do, whatever is inside."""

from typing import Protocol

from torch import Tensor

from fluvial.model.module.linear import AdapterTensors

State = tuple[Tensor, ...]
"""What a mixer keeps of the tokens it has read: keys and values, taps, a recurrent state."""


class Mixing(Protocol):
    """A layer's mixer with its weights. It is made of (declaration, LayerWeights)."""

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """Mix s >= 1 tokens at positions from `start` with those before them.

        `state` is what the run before returned (None at position 0); it is not changed. Returns
        the mixed [s, d] and the next state.
        """
        ...

    def advance(self, *, state: State | None, start: int) -> State:
        """Return the next state of a recalled layer, without mixing anything."""
        ...


class Widening(Protocol):
    """A layer's MLP or experts with their weights, made of (declaration, LayerWeights)."""

    def run(self, normal_SD: Tensor, *, adapter: AdapterTensors | None) -> Tensor:
        """Return what the layer adds to each token, [s, d]."""
        ...
