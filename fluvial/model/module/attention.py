"""Causal grouped-query attention: windows, soft caps, head norms, an output gate.

Letters: s new tokens, p past tokens, t both, d width, h query heads, g key heads, w head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import Attention
from fluvial.model.module.gradient import NativeAttention, Scoring
from fluvial.model.module.linear import AdapterTensors, LayerWeights
from fluvial.model.module.mixer import State
from fluvial.model.module.rotary import turn


class AttentionMixer:
    """Attention with its weights; its state is all keys and values, [g, t, w] each."""

    def __init__(self, attention: Attention, weights: LayerWeights) -> None:
        self._attention = attention
        self._epsilon = weights.epsilon
        self._qkv = weights.linear(attention.qkv)
        self._o = weights.linear(attention.o)
        self._recall = weights.recall
        self._scoring = Scoring(
            scale=attention.scale, window=attention.window, softcap=attention.softcap
        )
        self._norms = None
        if attention.head_norm:
            self._norms = weights.vector("q_norm"), weights.vector("k_norm")

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """See `Mixing`."""
        q, k, v, gate = self._project(self._qkv(normal_SD, adapter), start)
        mixed, state = self._attend(q, k, v, state)
        if gate:
            mixed = mixed * gate[0].sigmoid()
        return self._o(mixed, adapter), state

    def advance(self, *, state: State | None, start: int) -> State:
        """See `Mixing`."""
        _, k, v, _ = self._project(self._recall("qkv"), start)
        return _append(state, k, v)

    def _project(self, qkv_SO: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return turned queries and keys, values [heads, s, w], and the gate if there is one."""
        widths = [outputs for _, outputs in self._attention.qkv.parts]
        q, k, v, *gate = qkv_SO.split(widths, dim=-1)
        q, k, v = (self._separate(part) for part in (q, k, v))
        if self._norms is not None:
            q = self._recall.normalise(q, self._norms[0], self._epsilon)
            k = self._recall.normalise(k, self._norms[1], self._epsilon)
        rotary = self._attention.rotary
        return turn(q, rotary, start=start), turn(k, rotary, start=start), v, gate

    def _attend(
        self, q_HSW: Tensor, k_GSW: Tensor, v_GSW: Tensor, state: State | None
    ) -> tuple[Tensor, State]:
        backward, scoring = self._recall.backward, self._scoring
        if backward is None or not self._recall.has("attended"):
            state = _append(state, k_GSW, v_GSW)
            return attend(q_HSW, *state, scoring), state
        state = _append(state, k_GSW.detach(), v_GSW.detach())
        known = self._recall("attended"), *state
        return NativeAttention.apply(q_HSW, k_GSW, v_GSW, known, scoring, backward), state

    def _separate(self, x_SO: Tensor) -> Tensor:
        return x_SO.view(len(x_SO), -1, self._attention.head_width).transpose(0, 1)


def _append(state: State | None, k_GSW: Tensor, v_GSW: Tensor) -> tuple[Tensor, Tensor]:
    # Joined even with nothing: a state must not be a view of what a recalled linear gave, whose
    # memory the next step writes to.
    before = (k_GSW[:, :0], v_GSW[:, :0]) if state is None else state
    return torch.cat([before[0], k_GSW], dim=1), torch.cat([before[1], v_GSW], dim=1)


def attend(q_HSW: Tensor, k_GTW: Tensor, v_GTW: Tensor, scoring: Scoring) -> Tensor:
    """Attend from the last s of t tokens; return [s, h * value width]."""
    scale, window, softcap = scoring.scale, scoring.window, scoring.softcap
    repeats = len(q_HSW) // len(k_GTW)
    k, v = k_GTW.repeat_interleave(repeats, dim=0), v_GTW.repeat_interleave(repeats, dim=0)
    num_new, total = q_HSW.shape[1], k.shape[1]
    if softcap is not None:
        scores = softcap * torch.tanh(q_HSW @ k.transpose(1, 2) * (scale / softcap))
        scores = scores.masked_fill(~_mask(num_new, total, window), float("-inf"))
        mixed = scores.softmax(dim=-1) @ v
    else:
        plain = num_new == total and (window is None or window >= total)
        single = num_new == 1 and (window is None or window >= total)
        mixed = F.scaled_dot_product_attention(
            q_HSW[None],
            k[None],
            v[None],
            attn_mask=None if plain or single else _mask(num_new, total, window),
            is_causal=plain and not single,
            scale=scale,
        )[0]
    return mixed.transpose(0, 1).reshape(num_new, -1)


def _mask(num_new: int, total: int, window: int | None) -> Tensor:
    """Return which of t tokens each of the last s may see, bool [s, t]."""
    seen = torch.ones(num_new, total, dtype=torch.bool).tril(total - num_new)
    return seen if window is None else seen.triu(total - num_new - window + 1)
