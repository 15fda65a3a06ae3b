"""Causal grouped-query attention: windows, soft caps, head norms, an output gate.

Letters: s new tokens, p past tokens, t both, d width, h query heads, g key heads, w head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import Attention
from fluvial.model.module.gradient import Known, NativeAttention, Scoring
from fluvial.model.module.heads import NativeHeads, extend
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
        self._heads = None
        if weights.recall.backward is not None:
            self._heads = NativeHeads(
                attention, self._norms, self._epsilon, weights.recall.backward
            )

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """See `Mixing`."""
        qkv_SO = self._qkv(normal_SD, adapter)
        heads = self._find_told()
        if heads is not None:
            mixed, state = self._recall_mixed(heads, qkv_SO, state, start)
        else:
            q, k, v = self._project(qkv_SO, start)
            state = _append(state, k, v)
            mixed = attend(q, *state, self._scoring)
        if self._attention.has_gate:
            mixed = mixed * self._split(qkv_SO)[3].sigmoid()
        return self._o(mixed, adapter), state

    def advance(self, *, state: State | None, start: int) -> State:
        """See `Mixing`."""
        qkv_SO = self._recall("qkv")
        heads = self._find_told()
        if heads is None:
            return _append(state, *self._project(qkv_SO, start)[1:])
        k, v = heads.split_keys(qkv_SO.numpy(), position=start)
        return extend(state, torch.from_numpy(k), torch.from_numpy(v))

    def _find_told(self) -> NativeHeads | None:
        """Return what goes around attention natively, where the engine has told what it gave."""
        return self._heads if self._recall.has("attended") else None

    def _split(self, qkv_SO: Tensor) -> tuple[Tensor, ...]:
        return qkv_SO.split([outputs for _, outputs in self._attention.qkv.parts], dim=-1)

    def _project(self, qkv_SO: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return turned queries and keys, and values, [heads, s, w] each."""
        q, k, v = (self._separate(part) for part in self._split(qkv_SO)[:3])
        if self._norms is not None:
            q = self._recall.normalise(q, self._norms[0], self._epsilon)
            k = self._recall.normalise(k, self._norms[1], self._epsilon)
        rotary = self._attention.rotary
        return turn(q, rotary, start=start), turn(k, rotary, start=start), v

    def _recall_mixed(
        self, heads: NativeHeads, qkv_SO: Tensor, state: State | None, start: int
    ) -> tuple[Tensor, State]:
        """Return what the engine has told of attention, and the next state."""
        found = heads.split(qkv_SO.detach().numpy(), position=start)
        q, k, v = (torch.from_numpy(each) for each in found)
        state = extend(state, k, v)
        known = Known(
            q_HSW=q,
            k_GTW=state[0],
            v_GTW=state[1],
            mixed_SO=self._recall("attended"),
            position=start,
        )
        mixed = NativeAttention.apply(qkv_SO, known, heads, self._scoring)
        return mixed, state

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
