"""RMS norm with its gradient written by hand: half the passes over memory. Letters: d width."""

from typing import Any

import torch
from torch import Tensor


class RootMeanSquareNorm(torch.autograd.Function):
    """RMS norm over the last axis [..., d], times a weight that takes no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        """Return x over its root mean square, times the weight."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight_D, inverse)
        return (x * inverse).mul_(weight_D)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Return inverse * (g w - x * mean(g w x) * inverse ** 2)."""
        x, weight_D, inverse = ctx.saved_tensors
        scaled = grad_outputs[0] * weight_D
        along = torch.linalg.vecdot(scaled, x).unsqueeze(-1)
        along.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return scaled.mul_(inverse).addcmul_(x, along), None, None
