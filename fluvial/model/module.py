"""Build the PyTorch module of a checkpoint: the form that learns, in float32.

Base weights are constants; only the adapter's tensors ever take a gradient. Letters: s new tokens,
p past tokens, d width, h query heads, g key heads, w head width, V vocabulary, r rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fluvial.model.architecture.declaration import Attention, Declaration, Group, Layer
from fluvial.model.checkpoint import Checkpoint

AdapterTensors = Mapping[str, Tensor]
KeysValues = list[tuple[Tensor, Tensor]]
LOSS_BLOCK_TOKENS = 128


@dataclass(frozen=True, eq=False, kw_only=True)
class _LayerWeights:
    attention_norm: Tensor
    mlp_norm: Tensor
    matrices: dict[str, Tensor]
    biases: dict[str, Tensor]


class Module:
    """A checkpoint in float32, one sequence at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.declaration: Declaration = checkpoint.declaration
        self._layers = [
            _load_layer(checkpoint, index, layer)
            for index, layer in enumerate(self.declaration.layers)
        ]
        self._norm = _to_tensor(checkpoint.vector("norm"))
        self._embedding = _to_tensor(checkpoint.matrix("embedding"))
        tied = self.declaration.tied_head
        self._head = self._embedding if tied else _to_tensor(checkpoint.matrix("head"))

    def weight_scale(self, name: str) -> float:
        """Return the Frobenius norm of a linear group's base weights, such as `layers.3.qkv`."""
        layer, group = name.removeprefix("layers.").split(".", 1)
        return float(self._layers[int(layer)].matrices[group].norm())

    def read(
        self,
        token_ids: Tensor,
        *,
        adapter: AdapterTensors | None = None,
        past: KeysValues | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """Run tokens int64 [s] after `past`; return hidden states [s, d], all keys and values."""
        start = 0 if past is None else past[0][0].shape[-2]
        x_SD = self._embedding[token_ids]
        turn = _rotary(self.declaration.layers[0].mixer, start=start, length=len(token_ids))
        kept: KeysValues = []
        for index, layer in enumerate(self.declaration.layers):
            before = None if past is None else past[index]
            block = _Block(layer, self._layers[index], self.declaration.norm_epsilon)
            x_SD, keys_values = block.run(x_SD, turn, before, _select(adapter, index))
            kept.append(keys_values)
        return _normalise(x_SD, self._norm, self.declaration.norm_epsilon), kept

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Return logits float32 [s, V]."""
        return hidden_SD @ self._head.T

    def losses(self, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
        """Return each target's loss in nats, float32 [s], without holding all logits at once."""
        return _HeadLoss.apply(hidden_SD, self._head, targets_S)


class _Block:
    """One layer applied once; holds what its parts share."""

    def __init__(self, layer: Layer, weights: _LayerWeights, epsilon: float) -> None:
        self._layer, self._weights, self._epsilon = layer, weights, epsilon

    def run(
        self,
        x_SD: Tensor,
        turn: tuple[Tensor, Tensor],
        past: tuple[Tensor, Tensor] | None,
        adapter: AdapterTensors,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        attention, mlp = self._layer.mixer, self._layer.mlp
        normal = _normalise(x_SD, self._weights.attention_norm, self._epsilon)
        qkv = self._linear(attention.qkv, normal, adapter)
        mixed, keys_values = _attend(attention, qkv, turn, past)
        x_SD = x_SD + self._linear(attention.o, mixed, adapter)
        normal = _normalise(x_SD, self._weights.mlp_norm, self._epsilon)
        gate, up = self._linear(mlp.gate_up, normal, adapter).split(mlp.width, dim=-1)
        inner = F.silu(gate) * up
        if adapter:
            inner = inner * (1 + adapter["gain"])
        return x_SD + self._linear(mlp.down, inner, adapter), keys_values

    def _linear(self, group: Group, x_SI: Tensor, adapter: AdapterTensors) -> Tensor:
        y_SO = F.linear(
            x_SI, self._weights.matrices[group.name], self._weights.biases.get(group.name)
        )
        if not adapter:
            return y_SO
        return y_SO + (x_SI @ adapter[f"{group.name}.a"]) @ adapter[f"{group.name}.b"]


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy through the output layer, block by block, with the gradient made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden_SD: Tensor, head_VD: Tensor, targets_S: Tensor) -> Tensor:
        losses, grads = [], []
        for start in range(0, len(hidden_SD), LOSS_BLOCK_TOKENS):
            rows = slice(start, start + LOSS_BLOCK_TOKENS)
            logits = hidden_SD[rows] @ head_VD.T
            log_norm = logits.logsumexp(dim=-1)
            at = targets_S[rows, None]
            losses.append(log_norm - logits.gather(1, at)[:, 0])
            if ctx.needs_input_grad[0]:
                logits.sub_(log_norm[:, None]).exp_()
                logits.scatter_add_(1, at, torch.full_like(at, -1, dtype=logits.dtype))
                grads.append(logits @ head_VD)
        if grads:
            ctx.save_for_backward(torch.cat(grads))
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (grad_SD,) = ctx.saved_tensors
        return grad_SD * grad_outputs[0][:, None], None, None


def _attend(
    attention: Attention,
    qkv_SO: Tensor,
    turn: tuple[Tensor, Tensor],
    past: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    num_new = len(qkv_SO)
    widths = [outputs for _, outputs in attention.qkv.parts]
    q, k, v = (
        part.view(num_new, -1, attention.head_width).transpose(0, 1)
        for part in qkv_SO.split(widths, dim=-1)
    )
    q, k = _turn(q, turn), _turn(k, turn)
    if past is not None:
        k, v = torch.cat([past[0], k], dim=1), torch.cat([past[1], v], dim=1)
    repeats = attention.heads // attention.kv_heads
    mask = None
    if past is not None and num_new > 1:
        mask = torch.ones(num_new, k.shape[1], dtype=torch.bool).tril(k.shape[1] - num_new)
    mixed = F.scaled_dot_product_attention(
        q[None],
        k.repeat_interleave(repeats, dim=0)[None],
        v.repeat_interleave(repeats, dim=0)[None],
        attn_mask=mask,
        is_causal=past is None and num_new > 1,
    )[0]
    return mixed.transpose(0, 1).reshape(num_new, -1), (k, v)


def _rotary(attention: Attention, *, start: int, length: int) -> tuple[Tensor, Tensor]:
    frequencies = torch.tensor(attention.rotary.frequencies, dtype=torch.float64)
    positions = torch.arange(start, start + length, dtype=torch.float64)
    angles = torch.outer(positions, frequencies)
    return angles.cos().float(), angles.sin().float()


def _turn(x_HSW: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = turn
    first, second = x_HSW.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _normalise(x_SD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x_SD, (x_SD.shape[-1],), weight_D, epsilon)


def _select(adapter: AdapterTensors | None, index: int) -> AdapterTensors:
    prefix = f"layers.{index}."
    if adapter is None:
        return {}
    return {name[len(prefix) :]: t for name, t in adapter.items() if name.startswith(prefix)}


def _load_layer(checkpoint: Checkpoint, index: int, layer: Layer) -> _LayerWeights:
    at = f"layers.{index}"
    matrices: dict[str, Tensor] = {}
    biases: dict[str, Tensor] = {}
    for group in layer.groups:
        names = [f"{at}.{part}" for part, _ in group.parts]
        matrices[group.name] = torch.cat([_to_tensor(checkpoint.matrix(name)) for name in names])
        if group.bias:
            parts = [_to_tensor(checkpoint.vector(f"{name}.bias")) for name in names]
            biases[group.name] = torch.cat(parts)
    return _LayerWeights(
        attention_norm=_to_tensor(checkpoint.vector(f"{at}.attention_norm")),
        mlp_norm=_to_tensor(checkpoint.vector(f"{at}.mlp_norm")),
        matrices=matrices,
        biases=biases,
    )


def _to_tensor(array: NDArray[np.float32]) -> Tensor:
    # A view into the mapped file can't be written to, and PyTorch warns of that: copy those.
    return torch.from_numpy(array if array.flags.writeable else array.copy())
