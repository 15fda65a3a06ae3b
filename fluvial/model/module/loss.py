"""Cross-entropy through the output layer. Letters: s tokens, d width, V vocabulary."""

from typing import Any

import torch
from torch import Tensor

LOSS_BLOCK_TOKENS = 128


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """Return `softcap * tanh(logits / softcap)`, or the logits as they are without one."""
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


class HeadLoss(torch.autograd.Function):
    """Cross-entropy through the output layer, block by block, with the gradient made on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: Tensor, head_VD: Tensor, targets_S: Tensor, softcap: float | None
    ) -> Tensor:
        """Return each target's loss in nats, [s]."""
        losses, grads = [], []
        for start in range(0, len(hidden_SD), LOSS_BLOCK_TOKENS):
            rows = slice(start, start + LOSS_BLOCK_TOKENS)
            logits = cap(hidden_SD[rows] @ head_VD.T, softcap)
            slope = None if softcap is None else 1 - (logits / softcap) ** 2
            log_norm = logits.logsumexp(dim=-1)
            at = targets_S[rows, None]
            losses.append(log_norm - logits.gather(1, at)[:, 0])
            if ctx.needs_input_grad[0]:
                logits.sub_(log_norm[:, None]).exp_()
                logits.scatter_add_(1, at, torch.full_like(at, -1, dtype=logits.dtype))
                grads.append((logits if slope is None else logits * slope) @ head_VD)
        if grads:
            ctx.save_for_backward(torch.cat(grads))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        """Return the gradient of the hidden states."""
        (grad_SD,) = ctx.saved_tensors
        return grad_SD * grad_outputs[0][:, None], None, None, None
