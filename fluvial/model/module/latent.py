"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

Letters: s new tokens, t past and new ones, h heads, n features without position, r rotated ones,
v value width, l latent width.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import LatentAttention
from fluvial.model.module.attention import attend
from fluvial.model.module.gradient import Scoring
from fluvial.model.module.linear import AdapterTensors, LayerWeights
from fluvial.model.module.mixer import State
from fluvial.model.module.rotary import turn


class LatentMixer:
    """Latent attention with its weights; its state is latents [t, l] and rotated keys [1, t, r]."""

    def __init__(self, latent: LatentAttention, weights: LayerWeights) -> None:
        self._latent = latent
        # The rotated key stands alone; in a head of q the rotated features follow the others.
        self._key_rotary = replace(latent.rotary, start=0)
        self._q_down = None
        if latent.q_down is not None:
            self._q_down = weights.linear(latent.q_down)
            self._q_norm = weights.vector("q_down_norm")
        self._q = weights.linear(latent.q)
        self._kv_down = weights.linear(latent.kv_down)
        self._recall = weights.recall
        self._kv_norm = weights.vector("kv_down_norm")
        self._kv_up = weights.matrix("kv_up")
        self._o = weights.linear(latent.o)

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """See `Mixing`."""
        q = self._query(normal_SD, adapter, start)
        latent, key = self._append(self._kv_down(normal_SD, adapter), state, start)
        k, v = self._expand(latent, key)
        mixed = attend(q, k, v, Scoring(scale=self._latent.scale))
        return self._o(mixed, adapter), (latent, key)

    def advance(self, *, state: State | None, start: int) -> State:
        """See `Mixing`."""
        return self._append(self._recall("kv_down"), state, start)

    def _append(self, low_SO: Tensor, state: State | None, start: int) -> tuple[Tensor, Tensor]:
        """Return all latents [t, l] and rotated keys [1, t, r], those of new tokens last."""
        latent_SL, key_SR = low_SO.split([self._latent.kv_width, self._latent.rotary_width], dim=-1)
        latent = self._recall.normalise(latent_SL, self._kv_norm, self._latent.norm_epsilon)
        key = turn(key_SR[None], self._key_rotary, start=start)
        if state is None:
            return latent, key
        return torch.cat([state[0], latent]), torch.cat([state[1], key], dim=1)

    def _query(self, normal_SD: Tensor, adapter: AdapterTensors | None, start: int) -> Tensor:
        """Return turned queries [h, s, n + r]."""
        low = normal_SD
        if self._q_down is not None:
            low = self._q_down(normal_SD, adapter)
            low = self._recall.normalise(low, self._q_norm, self._latent.norm_epsilon)
        q_HSW = self._q(low, adapter).unflatten(-1, (self._latent.heads, -1)).transpose(0, 1)
        return turn(q_HSW, self._latent.rotary, start=start)

    def _expand(self, latent_TL: Tensor, key_1TR: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys [h, t, n + r] and values [h, t, v]."""
        wide = F.linear(latent_TL, self._kv_up)
        wide = wide.unflatten(-1, (self._latent.heads, -1)).transpose(0, 1)
        k, v = wide.split([self._latent.nope_width, self._latent.value_width], dim=-1)
        return torch.cat([k, key_1TR.expand(len(k), -1, -1)], dim=-1), v
