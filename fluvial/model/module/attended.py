"""Attention whose result the engine has told: only its gradient is computed, block by block.

What the softmax gave is made again for a block of queries at a time, so that memory does not grow
with the square of tokens. Keys and values from before take no gradient. Letters: s new tokens,
t past and new ones, n keys that a block sees, b queries of a block, h heads of q, g of k and v,
r of q for each of k, w head width, o outputs.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

BLOCK_QUERIES = 64


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How scores are made: `scale * q.k`, then the soft cap, over the last `window` tokens."""

    scale: float
    window: int | None = None
    softcap: float | None = None


class RecalledAttention(torch.autograd.Function):
    """Attention from new tokens to past and new ones, `mixed` [s, h * w] being known."""

    @staticmethod
    def forward(
        ctx: Any,
        q_HSW: Tensor,
        k_GTW: Tensor,
        v_GTW: Tensor,
        mixed_SO: Tensor,
        scoring: Scoring,
    ) -> Tensor:
        """Return `mixed`; all but the last s keys and values get a gradient of zero."""
        ctx.save_for_backward(q_HSW, k_GTW, v_GTW)
        ctx.scoring = scoring
        return mixed_SO.view_as(mixed_SO)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q_HSW, k_GTW, v_GTW = ctx.saved_tensors
        heads, length, width = q_HSW.shape
        num_keys, past = len(k_GTW), k_GTW.shape[1] - length
        q = (q_HSW * ctx.scoring.scale).view(num_keys, -1, length, width)
        grad = grad_outputs[0].view(length, heads, -1).transpose(0, 1)
        grad = grad.reshape(num_keys, -1, length, v_GTW.shape[2])
        grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k_GTW)
        grad_v = torch.zeros_like(v_GTW)
        for first in range(0, length, BLOCK_QUERIES):
            at = slice(first, min(first + BLOCK_QUERIES, length))
            _go_back(q, k_GTW, v_GTW, grad, (grad_q, grad_k, grad_v), at, past, ctx.scoring)
        grad_q = grad_q.mul_(ctx.scoring.scale).view(q_HSW.shape)
        return grad_q, grad_k, grad_v, None, None


def _go_back(
    q_GRSW: Tensor,
    k_GTW: Tensor,
    v_GTW: Tensor,
    grad_GRSW: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    at: slice,
    past: int,
    scoring: Scoring,
) -> None:
    """Add to `grads` (of q, k and v) what the queries `at` give."""
    end = past + at.stop
    start = 0 if scoring.window is None else max(0, past + at.start - scoring.window + 1)
    new = max(start, past)
    q, grad = q_GRSW[:, :, at].flatten(1, 2), grad_GRSW[:, :, at].flatten(1, 2)
    k, v = k_GTW[:, start:end], v_GTW[:, start:end]
    scores = torch.bmm(q, k.mT)
    bend = None
    if scoring.softcap is not None:
        bent = scores.div_(scoring.softcap).tanh_()
        bend = 1 - bent.square()
        scores = bent * scoring.softcap
    num_queries = at.stop - at.start
    scores.unflatten(1, (-1, num_queries)).add_(_mask(num_queries, end - start, scoring.window))
    share = scores.softmax(dim=-1)
    mine = slice(new - start, None)
    grads[2][:, new:end].baddbmm_(share[:, :, mine].mT, grad)
    # PyTorch's own backward of softmax gives other bits on other numbers of threads.
    change = torch.bmm(grad, v.mT)
    change.sub_((change * share).sum(dim=-1, keepdim=True)).mul_(share)
    if bend is not None:
        change = change * bend
    grads[0][:, :, at] = torch.bmm(change, k).view(*grads[0].shape[:2], num_queries, -1)
    grads[1][:, new:end].baddbmm_(change[:, :, mine].mT, q)


@lru_cache(maxsize=64)
def _mask(num_queries: int, total: int, window: int | None) -> Tensor:
    """Return 0 where the last b of n tokens may look, minus infinity elsewhere, [b, n]."""
    seen = torch.ones(num_queries, total, dtype=torch.bool).tril(total - num_queries)
    if window is not None:
        seen = seen.triu(total - num_queries - window + 1)
    return torch.zeros(num_queries, total).masked_fill_(~seen, float("-inf"))
