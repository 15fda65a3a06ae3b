"""Linears with their low-rank terms, norms, and the loading of a layer's constants.

Letters: s new tokens, i inputs, o outputs, r rank, d width.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import ActivationKind, Group
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.module.gradient import Backward, NativeActivation, NativeNorm

AdapterTensors = Mapping[str, Tensor]


class Linear:
    """One group of linears, `y = W x + B (A x)`; `name` is that of its adapter's tensors."""

    def __init__(self, name: str, matrix_OI: Tensor, bias_O: Tensor | None) -> None:
        self.name = name
        self.matrix_OI = matrix_OI
        self._bias_O = bias_O

    def __call__(self, x_SI: Tensor, adapter: AdapterTensors | None) -> Tensor:
        y_SO = F.linear(x_SI, self.matrix_OI, self._bias_O)
        if not adapter:
            return y_SO
        return y_SO + (x_SI @ adapter[f"{self.name}.a"]) @ adapter[f"{self.name}.b"]


class AnyLinear(Protocol):
    """What stands for a group of linears."""

    def __call__(self, x_SI: Tensor, adapter: AdapterTensors | None) -> Tensor:
        """Return y float32 [s, o]."""
        ...


MakeLinear = Callable[[str, Group], AnyLinear]
Recalling = Callable[[str], Tensor | None]


class Recall:
    """What the engine has told of one layer in its last step, by the names of its groups.

    Where something can be told, `backward` makes the gradients of what lies between.
    """

    def __init__(self, at: str, recall: Recalling | None, backward: Backward | None) -> None:
        self._at, self._recall, self.backward = at, recall, backward

    def has(self, name: str) -> bool:
        """Whether the engine has told of `name`."""
        return self._recall is not None and self._recall(f"{self._at}.{name}") is not None

    def __call__(self, name: str) -> Tensor:
        """Return what it told. Raises ModelError when there is nothing."""
        told = None if self._recall is None else self._recall(f"{self._at}.{name}")
        if told is None:
            raise ModelError(f"the engine has not told what {self._at}.{name} gave")
        return told

    def normalise(self, x_SD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        """Return RMS norm over the last axis, times the weight, which takes no gradient."""
        if self.backward is None:
            return normalise(x_SD, weight_D, epsilon)
        return NativeNorm.apply(x_SD, weight_D, epsilon, self.backward)

    def activate(self, x_SF: Tensor, gain_F: Tensor | None, kind: ActivationKind) -> Tensor:
        """Return activation(gate) * up * (1 + gain) of [s, gate | up]."""
        if self.backward is not None:
            return NativeActivation.apply(x_SF, gain_F, kind, self.backward)
        gate, up = x_SF.chunk(2, dim=-1)
        inner = activate(gate, kind) * up
        return inner if gain_F is None else inner * (1 + gain_F)


class LayerWeights:
    """Loads one layer's weights from a checkpoint; remembers the linears that can be adapted."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        index: int,
        *,
        make_linear: MakeLinear | None = None,
        recall: Recalling | None = None,
        backward: Backward | None = None,
    ) -> None:
        """`make_linear` gives something else in place of the linears of a group, by their name.

        `recall` tells what is known already of what the layer gives; then `backward` makes the
        gradients of what lies between.
        """
        self.name = f"layers.{index}"
        self.recall = Recall(self.name, recall, backward)
        self.epsilon = checkpoint.declaration.norm_epsilon
        self.linears: dict[str, Linear] = {}
        self._checkpoint = checkpoint
        self._make_linear = make_linear

    def linear(self, group: Group) -> AnyLinear:
        """Load a group's linears as one."""
        if self._make_linear is not None:
            return self._make_linear(f"{self.name}.{group.name}", group)
        matrix = torch.cat([self.matrix(part) for part, _ in group.parts])
        bias = None
        if group.bias:
            bias = torch.cat([self.vector(f"{part}.bias") for part, _ in group.parts])
        self.linears[group.name] = Linear(f"{self.name}.{group.name}", matrix, bias)
        return self.linears[group.name]

    def matrix(self, part: str) -> Tensor:
        """Load a weight in its own shape, float32; of experts it is stacked, [count, o, i]."""
        return to_tensor(self._checkpoint.matrix(f"{self.name}.{part}"))

    def vector(self, part: str) -> Tensor:
        """Load a one-dimensional weight, float32."""
        return to_tensor(self._checkpoint.vector(f"{self.name}.{part}"))


def normalise(x_SD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    """Return RMS norm over the last axis, times the weight, which takes no gradient."""
    return F.rms_norm(x_SD, (x_SD.shape[-1],), weight_D, epsilon)


def activate(x: Tensor, kind: ActivationKind) -> Tensor:
    """Return the activation of x."""
    return F.silu(x) if kind == "silu" else F.gelu(x, approximate="tanh")


def to_tensor(array: NDArray[np.float32]) -> Tensor:
    """Return the array as a tensor that may be written to."""
    # A view into the mapped file can't be written to, and PyTorch warns of that: copy those.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
