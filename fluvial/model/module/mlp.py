"""Gated MLP with the adapter's gain on its activation."""

from torch import Tensor

from fluvial.model.architecture.declaration import Mlp
from fluvial.model.module.linear import AdapterTensors, LayerWeights


class GatedMlp:
    """A gated MLP with its weights; also the shared part of a mixture of experts."""

    def __init__(self, mlp: Mlp, weights: LayerWeights) -> None:
        self._mlp = mlp
        self._gain = f"{weights.name}.gain"
        self._gate_up = weights.linear(mlp.gate_up)
        self._down = weights.linear(mlp.down)
        self._recall = weights.recall

    def run(self, normal_SD: Tensor, *, adapter: AdapterTensors | None) -> Tensor:
        """See `Widening`."""
        gain_F = adapter[self._gain] if adapter else None
        gate_up_SF = self._gate_up(normal_SD, adapter)
        return self._down(self._recall.activate(gate_up_SF, gain_F, self._mlp.activation), adapter)
