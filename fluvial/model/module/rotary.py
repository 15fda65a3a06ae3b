"""Rotary positions. Letters: h heads, s tokens, w head width, f pairs."""

from functools import lru_cache

import torch
from torch import Tensor

from fluvial.model.architecture.declaration import Rotary


def turn(x_HSW: Tensor, rotary: Rotary | None, *, start: int) -> Tensor:
    """Turn heads of tokens at positions from `start`; the other features pass as they are."""
    if rotary is None:
        return x_HSW
    cos_SF, sin_SF = _tabulate(rotary, start, x_HSW.shape[-2])
    end = rotary.start + 2 * len(rotary.frequencies)
    inside = x_HSW[..., rotary.start : end]
    if rotary.interleaved:
        turned = torch.stack(
            _turn(inside[..., 0::2], inside[..., 1::2], cos_SF, sin_SF), dim=-1
        ).flatten(-2)
    else:
        first, second = inside.chunk(2, dim=-1)
        turned = torch.cat(_turn(first, second, cos_SF, sin_SF), dim=-1)
    if turned.shape == x_HSW.shape:
        return turned
    return torch.cat([x_HSW[..., : rotary.start], turned, x_HSW[..., end:]], dim=-1)


def _turn(first: Tensor, second: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return first * cos - second * sin, second * cos + first * sin


@lru_cache(maxsize=8)
def _tabulate(rotary: Rotary, start: int, length: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines float32 [s, f]; all layers of one read ask for the same."""
    frequencies = torch.tensor(rotary.frequencies, dtype=torch.float64)
    positions = torch.arange(start, start + length, dtype=torch.float64)
    angles = torch.outer(positions, frequencies)
    return (
        (angles.cos() * rotary.magnitude).float(),
        (angles.sin() * rotary.magnitude).float(),
    )
