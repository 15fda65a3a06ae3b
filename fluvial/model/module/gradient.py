"""Norms, activations and attention whose gradients native code makes, as PyTorch's functions.

Letters: s new tokens, t past and new ones, d width, f width of an MLP, h heads of q, g of k and v,
w head width, o outputs.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.model.architecture.declaration import ActivationKind

Floats = NDArray[np.float32]


class Backward(Protocol):
    """Native code's share of a backward pass (`fluvial.engine.backward`)."""

    def normalise(
        self, x: Floats, weight_D: Floats, *, epsilon: float, grad: Floats | None = None
    ) -> Floats:
        """Return the RMS norm of rows [..., d]; where `grad` is given, the gradient by x."""
        ...

    def activate(self, x_SF: Floats, gain_F: Floats | None, *, kind: ActivationKind) -> Floats:
        """Return activation(gate) * up * (1 + gain) of [s, gate | up]."""
        ...

    def activate_back(
        self,
        x_SF: Floats,
        gain_F: Floats | None,
        grad_SF: Floats,
        *,
        kind: ActivationKind,
        gains: bool,
    ) -> tuple[Floats, Floats | None]:
        """Return the gradients by [s, gate | up], and with `gains`, by the gains."""
        ...

    def attend_back(
        self,
        q_HSW: Floats,
        k_GTW: Floats,
        v_GTW: Floats,
        mixed_SO: Floats,
        grad_SO: Floats,
        *,
        window: int | None,
        softcap: float | None,
    ) -> tuple[Floats, Floats, Floats]:
        """Return the gradients by scaled queries, and by keys and values of the s new tokens."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How scores are made: `scale * q.k`, then the soft cap, over the last `window` tokens."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class NativeNorm(torch.autograd.Function):
    """RMS norm over the last axis [..., d], times a weight that takes no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float, backward: Backward
    ) -> Tensor:
        """Return x over its root mean square, times the weight."""
        x = x.contiguous()
        ctx.save_for_backward(x, weight_D)
        ctx.epsilon, ctx.native = epsilon, backward
        return torch.from_numpy(backward.normalise(x.numpy(), weight_D.numpy(), epsilon=epsilon))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight_D = ctx.saved_tensors
        grad = grad_outputs[0].contiguous().numpy()
        found = ctx.native.normalise(x.numpy(), weight_D.numpy(), epsilon=ctx.epsilon, grad=grad)
        return torch.from_numpy(found), None, None, None


class NativeActivation(torch.autograd.Function):
    """activation(gate) * up * (1 + gain) of [s, gate | up]; `gain` None: without."""

    @staticmethod
    def forward(
        ctx: Any, x_SF: Tensor, gain_F: Tensor | None, kind: ActivationKind, backward: Backward
    ) -> Tensor:
        """Return the inputs of an MLP's last linear, [s, f]."""
        ctx.save_for_backward(x_SF, gain_F)
        ctx.kind, ctx.native = kind, backward
        return torch.from_numpy(backward.activate(x_SF.numpy(), _array(gain_F), kind=kind))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_SF, gain_F = ctx.saved_tensors
        grad_x, grad_gain = ctx.native.activate_back(
            x_SF.numpy(),
            _array(gain_F),
            grad_outputs[0].contiguous().numpy(),
            kind=ctx.kind,
            gains=ctx.needs_input_grad[1],
        )
        by_gain = None if grad_gain is None else torch.from_numpy(grad_gain)
        return torch.from_numpy(grad_x), by_gain, None, None


class NativeAttention(torch.autograd.Function):
    """Attention whose result, `mixed` [s, h * w], the engine has told."""

    @staticmethod
    def forward(
        ctx: Any,
        q_HSW: Tensor,
        k_GSW: Tensor,
        v_GSW: Tensor,
        known: tuple[Tensor, Tensor, Tensor],
        scoring: Scoring,
        backward: Backward,
    ) -> Tensor:
        """Return `mixed`; `known` is that and all keys and values [g, t, w], the new ones last.

        Only new keys and values get a gradient.
        """
        del k_GSW, v_GSW
        mixed_SO, k_GTW, v_GTW = known
        ctx.save_for_backward((q_HSW * scoring.scale).contiguous(), k_GTW, v_GTW, mixed_SO)
        ctx.scoring, ctx.native = scoring, backward
        return mixed_SO.view_as(mixed_SO)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        found = ctx.native.attend_back(
            *(each.numpy() for each in ctx.saved_tensors),
            grad_outputs[0].contiguous().numpy(),
            window=ctx.scoring.window,
            softcap=ctx.scoring.softcap,
        )
        grad_q, grad_k, grad_v = (torch.from_numpy(each) for each in found)
        return grad_q.mul_(ctx.scoring.scale), grad_k, grad_v, None, None, None


def _array(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else tensor.detach().numpy()
