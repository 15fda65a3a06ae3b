"""Gated DeltaNet (arXiv 2412.06464): linear attention that corrects what its state predicts.

Letters: s new tokens, c tokens of a chunk, h value heads, w key width, v value width, f features of
the convolution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fluvial.model.architecture.declaration import GatedDelta
from fluvial.model.module.conv import convolve
from fluvial.model.module.linear import AdapterTensors, LayerWeights, normalise
from fluvial.model.module.mixer import State

CHUNK_TOKENS = 64
UNIT_EPSILON = 1e-6
"""Beside the sum of squares where q and k are made unit vectors, as in flash-linear-attention."""


class GatedDeltaMixer:
    """A gated DeltaNet with its weights; its state is the last taps [k - 1, f] and [h, w, v]."""

    def __init__(self, delta: GatedDelta, weights: LayerWeights) -> None:
        self._delta = delta
        self._epsilon = weights.epsilon
        self._delta_in = weights.linear(delta.delta_in)
        self._delta_out = weights.linear(delta.delta_out)
        self._recall = weights.recall
        self._taps_FK = weights.matrix("conv")
        self._rate_H = weights.vector("decay").exp()
        self._rate_bias_H = weights.vector("decay_bias")
        self._norm_V = weights.vector("delta_norm")

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """See `Mixing`."""
        read_HSV, z, next_state = self._remember(self._delta_in(normal_SD, adapter), state)
        read_SHV = normalise(read_HSV.transpose(0, 1), self._norm_V, self._epsilon)
        mixed = read_SHV.flatten(1) * F.silu(z)
        return self._delta_out(mixed, adapter), next_state

    def advance(self, *, state: State | None, start: int) -> State:
        """See `Mixing`."""
        return self._remember(self._recall("delta_in"), state)[2]

    def _remember(
        self, projected_SO: Tensor, state: State | None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Return what was read of the memory [h, s, v], the output's gate, and the next state."""
        taps, memory_HWV = state if state is not None else (None, self._create_memory())
        widths = [outputs for _, outputs in self._delta.delta_in.parts]
        qkv, z, b, a = projected_SO.split(widths, dim=-1)
        qkv, taps = convolve(qkv, self._taps_FK, taps)
        q, k, v = self._separate(F.silu(qkv))
        log_decay_HS = (-self._rate_H * F.softplus(a + self._rate_bias_H)).T
        read_HSV, memory_HWV = apply_delta_rule(
            q, k, v, log_decay_HS=log_decay_HS, beta_HS=b.sigmoid().T, memory_HWV=memory_HWV
        )
        return read_HSV, z, (taps, memory_HWV)

    def _create_memory(self) -> Tensor:
        delta = self._delta
        return torch.zeros(delta.value_heads, delta.key_width, delta.value_width)

    def _separate(self, qkv_SF: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q and k as unit vectors [h, s, w] (q scaled), and v [h, s, v]."""
        delta = self._delta
        keys, values = delta.key_heads * delta.key_width, delta.value_heads * delta.value_width
        q, k, v = qkv_SF.split([keys, keys, values], dim=-1)
        repeats = delta.value_heads // delta.key_heads
        q, k = (
            _make_unit(part.unflatten(-1, (delta.key_heads, -1)))
            .transpose(0, 1)
            .repeat_interleave(repeats, dim=0)
            for part in (q, k)
        )
        v = v.unflatten(-1, (delta.value_heads, -1)).transpose(0, 1)
        return q * delta.key_width**-0.5, k, v


def apply_delta_rule(
    q_HSW: Tensor,
    k_HSW: Tensor,
    v_HSV: Tensor,
    *,
    log_decay_HS: Tensor,
    beta_HS: Tensor,
    memory_HWV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write each token into the memory and read it; return what was read [h, s, v], and the memory.

    For each token: memory = decay * memory; memory += k (beta * (v - k.memory)); read = q.memory.
    `log_decay_HS` <= 0. Chunks are done at once, so that learning does not hold each state.
    """
    reads: list[Tensor] = []
    for start in range(0, q_HSW.shape[1], CHUNK_TOKENS):
        at = slice(start, start + CHUNK_TOKENS)
        read, memory_HWV = _apply_chunk(
            q_HSW[:, at],
            k_HSW[:, at],
            v_HSV[:, at],
            log_decay_HS[:, at],
            beta_HS[:, at],
            memory_HWV,
        )
        reads.append(read)
    return torch.cat(reads, dim=1), memory_HWV


def _apply_chunk(
    q_HCW: Tensor,
    k_HCW: Tensor,
    v_HCV: Tensor,
    log_decay_HC: Tensor,
    beta_HC: Tensor,
    memory_HWV: Tensor,
) -> tuple[Tensor, Tensor]:
    """Do a chunk's tokens at once (arXiv 2412.06464, section 3.3).

    What each token writes, u, depends on the earlier u of the chunk: (1 + A) u = beta * (v - what
    the memory before the chunk says), with A strictly lower triangular.
    """
    # In float64: over a chunk the sum can be in the hundreds, and the differences are what counts.
    total_HC = log_decay_HC.double().cumsum(dim=1)
    # Only decays from an earlier token to a later one: the others would overflow.
    between_HCC = (total_HC[:, :, None] - total_HC[:, None, :]).tril().exp().tril().float()
    since_start = total_HC.exp()[:, :, None].float()
    until_end = (total_HC[:, -1:] - total_HC).exp()[:, :, None].float()
    mixing = (beta_HC[:, :, None] * (k_HCW @ k_HCW.mT) * between_HCC).tril(-1)
    wanted = beta_HC[:, :, None] * (v_HCV - since_start * (k_HCW @ memory_HWV))
    written = torch.linalg.solve_triangular(mixing, wanted, upper=False, unitriangular=True)
    read = since_start * (q_HCW @ memory_HWV) + ((q_HCW @ k_HCW.mT) * between_HCC) @ written
    kept = since_start[:, -1:] * memory_HWV
    return read, kept + (k_HCW * until_end).mT @ written


def _make_unit(x: Tensor) -> Tensor:
    return x * (x.square().sum(dim=-1, keepdim=True) + UNIT_EPSILON).rsqrt()
