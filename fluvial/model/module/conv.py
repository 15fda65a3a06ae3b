"""LFM2's gated short convolution. Letters: s new tokens, d width, k taps."""

import torch
from torch import Tensor

from fluvial.model.architecture.declaration import ShortConv
from fluvial.model.module.linear import AdapterTensors, LayerWeights
from fluvial.model.module.mixer import State


class ShortConvMixer:
    """A short convolution with its weights; its state is the last k - 1 inputs, [k - 1, d]."""

    def __init__(self, conv: ShortConv, weights: LayerWeights) -> None:
        self._conv_in = weights.linear(conv.conv_in)
        self._conv_out = weights.linear(conv.conv_out)
        self._recall = weights.recall
        self._taps_DK = weights.matrix("conv")

    def run(
        self,
        normal_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """See `Mixing`."""
        b, c, x = self._conv_in(normal_SD, adapter).chunk(3, dim=-1)
        mixed, kept = convolve(b * x, self._taps_DK, None if state is None else state[0])
        return self._conv_out(c * mixed, adapter), (kept,)

    def advance(self, *, state: State | None, start: int) -> State:
        """See `Mixing`."""
        b, _, x = self._recall("conv_in").chunk(3, dim=-1)
        num_kept = self._taps_DK.shape[1] - 1
        last = (b[-num_kept:] * x[-num_kept:]) if num_kept else b[:0]
        before = b.new_zeros(num_kept, b.shape[1]) if state is None else state[0]
        return (torch.cat([before, last])[len(last) :],)


def convolve(x_SD: Tensor, taps_DK: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
    """Convolve causally, each feature by its own taps; the last tap meets the newest token.

    `before` [k - 1, d] are the inputs just before these (None: zeros). Returns the output [s, d]
    and the inputs to keep for the next call, [k - 1, d].
    """
    num_kept = taps_DK.shape[1] - 1
    if before is None:
        before = x_SD.new_zeros(num_kept, x_SD.shape[1])
    whole = torch.cat([before, x_SD])
    windows_SDK = whole.unfold(0, num_kept + 1, 1)
    return (windows_SDK * taps_DK).sum(dim=-1), whole[len(whole) - num_kept :]
