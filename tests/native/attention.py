"""A world for the attention operator: pages, states, requests, and the same in plain numpy.

Every pool is full of NaN before the first step, so that a look at anything unwritten is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.native.graph import run_operator

Floats = NDArray[np.float32]
PAGE = 16
SLAB = 64
BLOCK = 32
OFFSET = 64
"""Bytes of a page before the layer that is looked at."""


@dataclass(frozen=True, kw_only=True)
class Case:
    heads: int = 4
    kv_heads: int = 2
    key_width: int = 16
    value_width: int = 16
    window: int = 0
    softcap: float = 0
    pairs: int = 0
    rotary_start: int = 0
    interleaved: bool = False
    norm: bool = False
    large: float = 1
    """Times every query: how far scores are apart."""
    bits: int = 16

    @property
    def row_width(self) -> int:
        return (self.heads + self.kv_heads) * self.key_width + self.kv_heads * self.value_width

    @property
    def padded_width(self) -> int:
        return -(-self.value_width // 16) * 16

    @property
    def blocks(self) -> int:
        return -(-self.key_width // BLOCK)

    def list_lanes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the place of the token that each byte of a page belongs to; -1 for none."""
        tokens = np.arange(PAGE)
        if self.bits == 16:
            keys = np.broadcast_to(tokens[None, :, None], (self.key_width, PAGE, 2))
            values = np.broadcast_to(tokens[:, None, None], (PAGE, self.padded_width, 2))
            return keys.ravel(), values.ravel()
        keys = np.broadcast_to(tokens[None, :, None], (self.blocks * 8, PAGE, 4))
        values = np.broadcast_to(tokens.reshape(4, 1, 4), (4, self.padded_width, 4))
        scales = tokens.repeat(2)
        return (
            _fill([keys.ravel(), np.tile(scales, self.blocks)]),
            _fill([values.ravel(), scales]),
        )

    @property
    def head_bytes(self) -> int:
        return sum(map(len, self.list_lanes()))

    @property
    def page_bytes(self) -> int:
        return OFFSET + self.kv_heads * self.head_bytes + 64


def _fill(parts: list[NDArray[Any]]) -> NDArray[Any]:
    whole = np.concatenate(parts)
    return np.pad(whole, (0, -len(whole) % 64), constant_values=-1)


@dataclass(frozen=True)
class Piece:
    """New tokens [start, end) of one sequence."""

    sequence: int
    start: int
    end: int


class World:
    """Some sequences of random queries, keys and values, and the pages they are kept in."""

    def __init__(self, case: Case, lengths: Sequence[int], *, seed: int = 0) -> None:
        self.case = case
        random = np.random.default_rng(seed)
        self.qkv = [random.standard_normal((n, case.row_width), np.float32) for n in lengths]
        for each in self.qkv:
            each[:, : case.heads * case.key_width] *= case.large
        places = [-(-n // PAGE) for n in lengths]
        slabs = 2 + sum(places) // SLAB
        order = random.permutation(slabs * SLAB).astype(np.int32)
        self.pages = np.full((len(lengths), max(places) + 2), -1, np.int32)
        for row, count in enumerate(places):
            self.pages[row, :count], order = order[:count], order[count:]
        self.free = order
        self.pool = np.full((slabs, SLAB * case.page_bytes), 255, np.uint8)
        angles = random.uniform(-3, 3, (max(lengths), case.pairs))
        self.cosine, self.sine = np.cos(angles, dtype=np.float32), np.sin(angles, dtype=np.float32)
        self.q_norm, self.k_norm = random.uniform(0.5, 2, (2, case.key_width)).astype(np.float32)

    @property
    def attributes(self) -> dict[str, Any]:
        case = self.case
        return {
            "heads": case.heads,
            "kv_heads": case.kv_heads,
            "key_width": case.key_width,
            "value_width": case.value_width,
            "offset": OFFSET,
            "offset_byte": OFFSET,
            "scale": case.key_width**-0.5,
            "window": case.window,
            "softcap": float(case.softcap),
            "rotary_start": case.rotary_start,
            "interleaved": int(case.interleaved),
            "epsilon": 1e-5,
        }

    def list_inputs(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        case = self.case
        return {
            "qkv": np.concatenate([self.qkv[p.sequence][p.start : p.end] for p in pieces]),
            "kv_pool": self.pool,
            "kv_bits": np.array([case.bits], np.int32),
            "pages": np.ascontiguousarray(self.pages[[p.sequence for p in pieces]]),
            "row_of": np.repeat(
                np.arange(len(pieces), dtype=np.int32), [p.end - p.start for p in pieces]
            ),
            "position": np.concatenate([np.arange(p.start, p.end) for p in pieces]).astype(
                np.int32
            ),
            "cosine": self.cosine if case.pairs else None,
            "sine": self.sine if case.pairs else None,
            "q_norm": self.q_norm if case.norm else None,
            "k_norm": self.k_norm if case.norm else None,
        }

    def step(self, *pieces: Piece, threads: int = 1) -> list[Floats]:
        """Run one step; return what each piece got."""
        inputs = self.list_inputs(pieces)
        y = run_operator("Attention", inputs, attributes=self.attributes, threads=threads)[0]
        cuts = np.cumsum([p.end - p.start for p in pieces])[:-1]
        return np.split(y, cuts)

    def view(self, kv_head: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the bytes of one head's keys, and of its values, both [slabs, pages, bytes]."""
        keys, values = (len(lanes) for lanes in self.case.list_lanes())
        start = SLAB * (OFFSET + kv_head * self.case.head_bytes)
        middle, end = start + SLAB * keys, start + SLAB * (keys + values)
        slabs = len(self.pool)
        return (
            self.pool[:, start:middle].reshape(slabs, SLAB, keys),
            self.pool[:, middle:end].reshape(slabs, SLAB, values),
        )

    def read(self, sequence: int, kv_head: int, length: int) -> tuple[Floats, Floats]:
        """Return keys and values [length, width] of one head as the pages have them."""
        case, pages = self.case, self.pages[sequence, : -(-length // PAGE)]
        keys, values = (each[np.divmod(pages, SLAB)] for each in self.view(kv_head))
        if case.bits == 16:
            keys = keys.view(np.float16).reshape(-1, case.key_width, PAGE).swapaxes(1, 2)
            values = values.view(np.float16).reshape(-1, PAGE, case.padded_width)
        else:
            keys, values = _widen_keys(case, keys), _widen_values(case, values)
        keys = keys.reshape(-1, keys.shape[-1]).astype(np.float32)[:length]
        values = values.reshape(-1, case.padded_width).astype(np.float32)[:length]
        assert not values[:, case.value_width :].any()
        return keys[:, : case.key_width], values[:, : case.value_width]

    def split(self, sequence: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return queries, keys and values [tokens, heads, width] in float64, as they are used."""
        case = self.case
        rows = self.qkv[sequence].astype(np.float64)
        q, k, v = np.split(
            rows, [case.heads * case.key_width, (case.heads + case.kv_heads) * case.key_width], 1
        )
        q = self.turn(q.reshape(len(rows), case.heads, -1), self.q_norm)
        k = self.turn(k.reshape(len(rows), case.kv_heads, -1), self.k_norm)
        return q * case.key_width**-0.5, k, v.reshape(len(rows), case.kv_heads, -1)

    def turn(self, heads: NDArray[Any], norm: Floats) -> NDArray[Any]:
        case = self.case
        if case.norm:
            mean = np.square(heads).mean(axis=-1, keepdims=True)
            heads = heads / np.sqrt(mean + np.float32(1e-5)) * norm
        heads = heads.copy()
        part = heads[..., case.rotary_start : case.rotary_start + 2 * case.pairs]
        if case.interleaved:
            a, b = part[..., 0::2].copy(), part[..., 1::2].copy()
        else:
            a, b = part[..., : case.pairs].copy(), part[..., case.pairs :].copy()
        cosine, sine = self.cosine[: len(heads), None], self.sine[: len(heads), None]
        turned = (a * cosine - b * sine, b * cosine + a * sine)
        if case.interleaved:
            part[..., 0::2], part[..., 1::2] = turned
        else:
            part[..., : case.pairs], part[..., case.pairs :] = turned
        return heads

    def expect(self, sequence: int) -> NDArray[Any]:
        """Return in float64 what a sequence must give, with keys and values of the pages."""
        case = self.case
        q, k, v = self.split(sequence)
        length, group = len(q), case.heads // case.kv_heads
        y = np.zeros((length, case.heads, case.value_width))
        places = np.arange(length)
        seen = places[None] <= places[:, None]
        if case.window:
            seen &= places[None] > places[:, None] - case.window
        for head in range(case.heads):
            keys, values = self.read(sequence, head // group, length)
            self.check_kept(keys, values, k[:, head // group], v[:, head // group])
            scores = q[:, head] @ keys.astype(np.float64).T
            if case.softcap:
                scores = case.softcap * np.tanh(scores / case.softcap)
            scores = np.where(seen, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            y[:, head] = weights / weights.sum(axis=1, keepdims=True) @ values
        return y.reshape(length, -1)

    def check_kept(self, keys: Floats, values: Floats, k: NDArray[Any], v: NDArray[Any]) -> None:
        if self.case.bits == 16:
            # float16 keeps 11 bits; below 2^-14 it has steps of 2^-24
            np.testing.assert_allclose(keys, k, rtol=2**-10, atol=2**-20)
            np.testing.assert_array_equal(values, v.astype(np.float16))
            return
        for start in range(0, self.case.key_width, BLOCK):
            block = slice(start, start + BLOCK)
            assert_rounded(keys[:, block], k[:, block])
        assert_rounded(values, v)


def assert_rounded(kept: NDArray[Any], given: NDArray[Any]) -> None:
    """Each row [tokens, features] is rounded to 255 steps up to its largest magnitude."""
    step = np.abs(given).max(axis=1, keepdims=True) / 127 * (1 + 2**-9)
    assert (np.abs(kept - given) <= 0.501 * step + 2**-24).all()


def _widen_keys(case: Case, keys: NDArray[Any]) -> NDArray[Any]:
    """Return [pages, 16, features] of the bytes of 8-bit keys [pages, bytes]."""
    data, rest = np.split(keys, [case.blocks * BLOCK * PAGE], axis=1)
    whole = data.reshape(-1, case.blocks * 8, PAGE, 4).swapaxes(1, 2).reshape(len(keys), PAGE, -1)
    scales = rest[:, : case.blocks * 2 * PAGE].copy().view(np.float16)
    scales = scales.reshape(-1, case.blocks, PAGE).swapaxes(1, 2).repeat(BLOCK, axis=2)
    return (whole.astype(np.float32) - 128) * scales


def _widen_values(case: Case, values: NDArray[Any]) -> NDArray[Any]:
    data, rest = np.split(values, [case.padded_width * PAGE], axis=1)
    whole = data.reshape(-1, 4, case.padded_width, 4).swapaxes(2, 3).reshape(len(values), PAGE, -1)
    scales = rest[:, : 2 * PAGE].copy().view(np.float16)
    return (whole.astype(np.float32) - 128) * scales[..., None]


def assert_near(y: Floats, expected: NDArray[Any], *, case: Case) -> None:
    # with 8 bits, queries and weights are rounded to 16
    rtol, atol = (1e-4, 3e-5) if case.bits == 16 else (1e-3, 3e-4 * case.large)
    np.testing.assert_allclose(y, expected, rtol=rtol, atol=atol)
