"""Gated MLP with the adapter's gain on its activation."""

import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import ActivationKind, Mlp
from fluvial.model.module.linear import AdapterTensors, LayerWeights


class GatedMlp:
    """A gated MLP with its weights; also the shared part of a mixture of experts."""

    def __init__(self, mlp: Mlp, weights: LayerWeights) -> None:
        self._mlp = mlp
        self._gain = f"{weights.name}.gain"
        self._gate_up = weights.linear(mlp.gate_up)
        self._down = weights.linear(mlp.down)

    def run(self, normal_SD: Tensor, *, adapter: AdapterTensors | None) -> Tensor:
        """See `Widening`."""
        gate, up = self._gate_up(normal_SD, adapter).split(self._mlp.width, dim=-1)
        inner = activate(gate, self._mlp.activation) * up
        if adapter:
            inner = inner * (1 + adapter[self._gain])
        return self._down(inner, adapter)


def activate(x: Tensor, kind: ActivationKind) -> Tensor:
    """Return the activation of x."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh")
