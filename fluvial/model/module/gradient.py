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

from fluvial.model.architecture.declaration import ActivationKind, Rotary

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

    def turn(
        self,
        x_HSW: Floats,
        y_HSW: Floats,
        rotary: Rotary | None,
        *,
        position: int,
        back: bool = False,
    ) -> None:
        """Write heads of tokens from `position` on to `y`, turned, or with `back` turned back."""
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


class Joining(Protocol):
    """Goes back from queries, keys and values to what a linear gave (`NativeHeads`)."""

    native: Backward

    def join(
        self, qkv_SO: Floats, grads: tuple[Floats, Floats, Floats], *, position: int
    ) -> Floats:
        """Return the gradient by `qkv` from those by queries, keys and values."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How scores are made: `scale * q.k`, then the soft cap, over the last `window` tokens."""

    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """What attention over tokens from `position` on was given and what it gave, without a graph.

    Queries [h, s, w] are not scaled; keys and values [g, t, w] are all that are seen, the
    new ones last.
    """

    q_HSW: Tensor
    k_GTW: Tensor
    v_GTW: Tensor
    mixed_SO: Tensor
    position: int


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
    """Attention, from queries, keys and values side by side, whose result the engine has told."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv_SO: Tensor,
        known: Known,
        heads: Joining,
        scoring: Scoring,
    ) -> Tensor:
        """Return `known.mixed_SO`. Only what is new gets a gradient."""
        ctx.save_for_backward(qkv_SO)
        ctx.known, ctx.heads, ctx.scoring = known, heads, scoring
        return known.mixed_SO.view_as(known.mixed_SO)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        known, scoring = ctx.known, ctx.scoring
        grad_q, grad_k, grad_v = ctx.heads.native.attend_back(
            known.q_HSW.numpy() * np.float32(scoring.scale),
            *(known.k_GTW.numpy(), known.v_GTW.numpy(), known.mixed_SO.numpy()),
            grad_outputs[0].contiguous().numpy(),
            window=scoring.window,
            softcap=scoring.softcap,
        )
        grad_q *= np.float32(scoring.scale)
        (qkv_SO,) = ctx.saved_tensors
        found = ctx.heads.join(qkv_SO.numpy(), (grad_q, grad_k, grad_v), position=known.position)
        return torch.from_numpy(found), None, None, None


def _array(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else tensor.detach().numpy()
