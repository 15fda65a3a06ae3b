"""Rows of projections whose parts are interleaved by head, as in Qwen3-Next.

`q_proj` holds for each head its query and its gate. The DeltaNet's `in_proj_qkvz` holds for each
key head its q and k, then the v and z of the value heads that share them; `in_proj_ba` likewise.
"""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import Attention, GatedDelta, Layer
from fluvial.model.architecture.name import Rows

Indices = NDArray[np.int64]
Split = Callable[[GatedDelta], list[int]]


def choose_q(name: str, *, gate: bool) -> Rows:
    """Return one half of each head of q_proj: q itself, or its gate."""

    def choose(layer: Layer) -> Indices:
        attention = cast(Attention, layer.mixer)
        rows = np.arange(2 * attention.heads * attention.head_width, dtype=np.int64)
        return rows.reshape(attention.heads, 2, -1)[:, int(gate)].reshape(-1)

    return Rows(name, choose)


def choose_delta(qkvz: str, ba: str) -> dict[str, Rows]:
    """Return the sources of a DeltaNet's four input parts, from the names of its two tensors."""
    return {
        "delta_qkv": _choose_parts(qkvz, _split_qkvz, (0, 1, 2)),
        "delta_z": _choose_parts(qkvz, _split_qkvz, (3,)),
        "delta_b": _choose_parts(ba, _split_ba, (0,)),
        "delta_a": _choose_parts(ba, _split_ba, (1,)),
    }


def _choose_parts(name: str, split: Split, parts: Sequence[int]) -> Rows:
    """Return the rows of some parts of a projection that is interleaved by key head.

    `split` says how many rows each part has in a key head; of the `parts` named, one comes whole
    after another.
    """

    def choose(layer: Layer) -> Indices:
        delta = cast(GatedDelta, layer.mixer)
        widths = split(delta)
        rows = np.arange(delta.key_heads * sum(widths), dtype=np.int64)
        separate = np.split(rows.reshape(delta.key_heads, -1), np.cumsum(widths)[:-1], axis=1)
        return np.concatenate([separate[part].reshape(-1) for part in parts])

    return Rows(name, choose)


def _split_qkvz(delta: GatedDelta) -> list[int]:
    values = delta.value_heads // delta.key_heads * delta.value_width
    return [delta.key_width, delta.key_width, values, values]


def _split_ba(delta: GatedDelta) -> list[int]:
    return [delta.value_heads // delta.key_heads] * 2
