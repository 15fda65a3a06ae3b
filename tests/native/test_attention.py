"""Attention against numpy: heads of every form, pages in any order, and ragged steps.

Every pool is full of NaN before the first step, so that a look at anything unwritten is seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

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


FORMS = {
    **{f"group of {n}": Case(heads=2 * n, kv_heads=2) for n in range(1, 10)},
    "one head": Case(heads=1, kv_heads=1),
    "three key heads": Case(heads=6, kv_heads=3, key_width=24, value_width=24),
    "group of 40": Case(heads=40, kv_heads=1),
    **{f"{w} wide": Case(key_width=w, value_width=w) for w in (1, 8, 20, 32, 64, 72, 80, 128)},
    "narrow values": Case(key_width=48, value_width=24),
    "wide values": Case(key_width=24, value_width=80),
    "values of one": Case(key_width=16, value_width=1),
    "window of 1": Case(window=1),
    "window of 20": Case(window=20),
    "window of 16": Case(window=16, heads=6),
    "wider window": Case(window=10_000),
    "softcap": Case(softcap=3, large=4),
    "softcap, window": Case(softcap=20, window=33, large=8),
    "rotary": Case(pairs=8),
    "interleaved": Case(pairs=8, interleaved=True),
    "partial rotary": Case(key_width=40, pairs=6),
    "rotary with start": Case(key_width=40, pairs=9, rotary_start=22),
    "interleaved with start": Case(key_width=40, pairs=9, rotary_start=22, interleaved=True),
    "norm": Case(norm=True),
    "norm and rotary": Case(key_width=72, value_width=40, heads=7, kv_heads=1, pairs=36, norm=True),
    "scores far apart": Case(large=60),
}


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("name", FORMS)
def test_matches_numpy(variant: str, name: str, bits: int) -> None:
    """A ragged step: whole prompts of several sequences, then one token each."""
    case = replace(FORMS[name], bits=bits)
    world = World(case, [61, 18, 1, 34])
    first = world.step(*(Piece(i, 0, n) for i, n in enumerate((60, 17, 1, 16))), threads=2)
    second = world.step(Piece(3, 16, 34), Piece(1, 17, 18), Piece(0, 60, 61))
    expected = [world.expect(i) for i in range(4)]
    for sequence, y in enumerate(first):
        assert_near(y, expected[sequence][: len(y)], case=case)
    assert_near(second[0], expected[3][16:], case=case)
    assert_near(second[1], expected[1][17:], case=case)
    assert_near(second[2], expected[0][60:], case=case)


@pytest.mark.parametrize(
    "case",
    [
        Case(heads=3, kv_heads=1, key_width=24, value_width=40, pairs=12),
        Case(window=300, softcap=5, large=3, heads=9, kv_heads=1),
        Case(window=100, norm=True, heads=2, kv_heads=2),
    ],
)
@pytest.mark.parametrize("bits", [16, 8])
def test_many_spans(variant: str, case: Case, bits: int) -> None:
    case = replace(case, bits=bits)
    world = World(case, [1330])
    y = world.step(Piece(0, 0, 1310), threads=2)[0]
    last = [world.step(Piece(0, n, n + 1), threads=2)[0] for n in range(1310, 1330)]
    assert_near(np.concatenate([y, *last]), world.expect(0), case=case)


SPANS = Case(heads=6, kv_heads=2, key_width=24, value_width=20, pairs=10, softcap=4, window=600)


SPAN_CASES = [
    replace(case, bits=bits)
    for case in (SPANS, replace(SPANS, softcap=0, window=0, norm=True))
    for bits in (16, 8)
]


@pytest.mark.parametrize("case", SPAN_CASES)
def test_in_pieces_is_the_same_to_the_bit(variant: str, case: Case) -> None:
    whole = World(case, [800])
    expected = whole.step(Piece(0, 0, 800), threads=2)[0]
    cuts = [0, 1, 2, 17, 33, 250, 255, 256, 257, 258, 511, 530, 766, 769, 799, 800]
    world = World(case, [800])
    parts = [
        world.step(Piece(0, start, end), threads=1 + start % 2)[0]
        for start, end in zip(cuts, cuts[1:], strict=False)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    np.testing.assert_array_equal(world.pool, whole.pool)


@pytest.mark.parametrize("case", SPAN_CASES)
def test_beside_others_is_the_same_to_the_bit(variant: str, case: Case) -> None:
    """Of a few sequences, spans run apart; of many, each goes through its own."""
    lengths = [1370, 300, 1, 257, 512, 40, 520, 700]
    alone, few, many = (World(case, lengths) for _ in range(3))
    for world in (alone, few, many):
        world.step(*(Piece(i, 0, n - 1) for i, n in enumerate(lengths) if n > 1))
    pieces = [Piece(i, n - 1, n) for i, n in enumerate(lengths)]
    expected = many.step(*pieces, threads=2)
    for start in range(0, len(pieces), 4):
        for y, other in zip(
            few.step(*pieces[start : start + 4], threads=2), expected[start:], strict=False
        ):
            np.testing.assert_array_equal(y, other)
    for piece, other in zip(pieces, expected, strict=True):
        np.testing.assert_array_equal(alone.step(piece)[0], other)


def test_decoding_beside_a_prompt_is_the_same_to_the_bit(variant: str) -> None:
    first, second = World(SPANS, [600, 300]), World(SPANS, [600, 300])
    for world in (first, second):
        world.step(Piece(0, 0, 599))
    expected = [*first.step(Piece(0, 599, 600)), *first.step(Piece(1, 0, 300))]
    for y, other in zip(
        second.step(Piece(0, 599, 600), Piece(1, 0, 300), threads=2), expected, strict=True
    ):
        np.testing.assert_array_equal(y, other)


@pytest.mark.parametrize("bits", [16, 8])
def test_nothing_else_is_written(variant: str, bits: int) -> None:
    case = replace(SPANS, bits=bits)
    world, expected = World(case, [40, 40]), World(case, [40, 40])
    world.pool[:] = np.random.default_rng(3).integers(0, 60, world.pool.shape)
    expected.pool[:] = world.pool
    world.step(Piece(0, 0, 40))
    for head in range(case.kv_heads):
        views = zip(world.view(head), expected.view(head), case.list_lanes(), strict=True)
        for new, old, lanes in views:
            for page, tokens in zip(world.pages[0, :3], (16, 16, 8), strict=True):
                at = divmod(int(page), SLAB)
                mine = (lanes >= 0) & (lanes < tokens)
                assert (new[at][mine] != old[at][mine]).mean() > 0.5
                old[at][mine] = new[at][mine]
    np.testing.assert_array_equal(world.pool, expected.pool)


@pytest.mark.parametrize("bits", [16, 8])
def test_pages_out_of_the_window_are_not_looked_at(variant: str, bits: int) -> None:
    """One token after a prompt: what is before its window may be anything."""
    case = Case(window=50, bits=bits)
    expected = World(case, [701])
    world = World(case, [701])
    for each in (expected, world):
        each.step(Piece(0, 0, 700))
    for head in range(case.kv_heads):
        for each in world.view(head):
            each[np.divmod(world.pages[0, : (701 - 50) // PAGE], SLAB)] = 255
    y = world.step(Piece(0, 700, 701))[0]
    np.testing.assert_array_equal(y, expected.step(Piece(0, 700, 701))[0])


@pytest.mark.parametrize("bits", [16, 8])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_stays_in_its_sequence(variant: str, bad: float, bits: int) -> None:
    case = replace(SPANS, bits=bits)
    expected = World(case, [300, 40, 30])
    world = World(case, [300, 40, 30])
    world.qkv[1][10] = bad
    pieces = [Piece(0, 0, 300), Piece(1, 0, 40), Piece(2, 0, 30)]
    y, other = world.step(*pieces, threads=2), expected.step(*pieces)
    np.testing.assert_array_equal(y[0], other[0])
    np.testing.assert_array_equal(y[2], other[2])
    assert not np.isfinite(y[1][10]).any()


def test_every_float_is_kept_as_the_nearest_half(variant: str) -> None:
    """What goes to the pages: all halves, ties between them, subnormals, infinities, NaN."""
    random = np.random.default_rng(0)
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    with np.errstate(all="ignore"):
        steps = halves.astype(np.float32)
        between = (steps + np.nextafter(halves, np.float16(np.inf)).astype(np.float32)) / 2
        random_bits = random.integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
        small = (random.standard_normal(1 << 16) * 2.0 ** random.integers(-30, -8, 1 << 16)).astype(
            np.float32
        )
        around = [np.nextafter(between, np.float32(side)) for side in (-np.inf, np.inf)]
        values = np.concatenate([steps, between, *around, random_bits, small])
        expected = values.astype(np.float16)
    case = Case(heads=1, kv_heads=1, key_width=1, value_width=4096)
    world = World(case, [len(values) // 4096])
    world.qkv[0][:, 2:] = values.reshape(-1, 4096)
    world.step(Piece(0, 0, len(values) // 4096), threads=2)
    kept = world.read(0, 0, len(values) // 4096)[1].ravel()
    np.testing.assert_array_equal(kept, expected.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(kept), np.signbit(expected))


@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bytes_of_what_is_not_finite_give_what_is_not_finite(
    variant: str, part: str, bad: float
) -> None:
    """Integers can't say that something is no number: its scale must."""
    case = Case(heads=1, kv_heads=1, bits=8)
    world = World(case, [40])
    world.qkv[0][20, {"query": 3, "key": 19, "value": 35}[part]] = bad
    y = world.step(Piece(0, 0, 40))[0]
    assert np.isfinite(y[:20]).all()
    assert not np.isfinite(y[20]).any()


def test_scales_of_bytes_are_never_too_small(variant: str) -> None:
    """Values of all sizes: 127 steps reach the largest, down to where halves end."""
    random = np.random.default_rng(1)
    sizes = 2.0 ** random.uniform(-30, 15, (800, 1))
    case = Case(heads=1, kv_heads=1, key_width=40, value_width=48, bits=8)
    world = World(case, [800])
    world.qkv[0][:, 40:] *= sizes
    world.step(Piece(0, 0, 800), threads=2)
    keys, values = world.read(0, 0, 800)
    for kept, given in ((keys[:, :32], world.qkv[0][:, 40:72]), (values, world.qkv[0][:, 80:])):
        most = np.abs(given).max(axis=1, keepdims=True)
        steps = most / 127 * (1 + 2**-10) + 2**-24
        assert (np.abs(kept - given) <= 0.5001 * steps).all()


# --- hostile input -------------------------------------------------------------------------------


def test_no_tokens() -> None:
    world = World(Case(), [20])
    inputs = world.list_inputs([Piece(0, 3, 3)])
    y = run_operator("Attention", inputs, attributes=world.attributes)[0]
    assert y.shape == (0, 64)


def change(name: str, index: Any, value: Any) -> Any:
    """Return a change of one element of an input."""

    def apply(inputs: dict[str, Any]) -> None:
        inputs[name] = inputs[name].copy()
        inputs[name][index] = value

    return apply


def give(name: str, value: NDArray[Any] | None) -> Any:
    def apply(inputs: dict[str, Any]) -> None:
        inputs[name] = value

    return apply


def give_narrow_bytes(inputs: dict[str, Any]) -> None:
    inputs["kv_bits"] = np.array([8], np.int32)
    inputs["kv_pool"] = np.zeros((1, 64 * 1855), np.uint8)


GREATEST = 2**31 - 1
HOSTILE = {
    "page too great": (change("pages", (0, 1), 64), "a page is out of range"),
    "page far": (change("pages", (0, 0), GREATEST), "a page is out of range"),
    "page missing": (change("pages", (0, 1), -1), "a page is out of range"),
    "page negative": (change("pages", (0, 0), -(2**31)), "a page is out of range"),
    "early page missing": (change("pages", (1, 0), -1), "a page is out of range"),
    "position negative": (change("position", 0, -1), "beyond the page table"),
    "position least": (change("position", 0, -(2**31)), "beyond the page table"),
    "position too great": (change("position", slice(None), 64), "beyond the page table"),
    "position greatest": (change("position", slice(None), GREATEST), "beyond the page table"),
    "position beyond rotary": (give("position", np.arange(20, 40)), "beyond the rotary table"),
    "position jumps": (change("position", 5, 7), "must follow each other"),
    "position stays": (change("position", 5, 4), "must follow each other"),
    "position short": (give("position", np.arange(19)), "row_of and position"),
    "row too great": (change("row_of", 19, 2), "row_of is out of range"),
    "row greatest": (change("row_of", 19, GREATEST), "row_of is out of range"),
    "row negative": (change("row_of", 0, -1), "row_of is out of range"),
    "row long": (give("row_of", np.zeros(21)), "row_of and position"),
    "row in columns": (give("row_of", np.zeros((20, 1))), "row_of and position"),
    "no pages": (give("pages", np.zeros((2, 0))), "beyond the page table"),
    "no sequences": (give("pages", np.zeros((0, 4))), "row_of is out of range"),
    "pages in a row": (give("pages", np.zeros(8)), "must have two dimensions"),
    "no pool": (give("kv_pool", np.zeros((0, 200_000), np.uint8)), "a page is out of range"),
    "narrow pool": (give("kv_pool", np.zeros((1, 64 * 2111), np.uint8)), "outside of the page"),
    "narrow pool of bytes": (give_narrow_bytes, "outside of the page"),
    "flat pool": (give("kv_pool", np.zeros(200_000, np.uint8)), "must have two dimensions"),
    "7 bits": (give("kv_bits", np.array([7], np.int32)), "kv_bits must be 16 or 8"),
    "no bits": (give("kv_bits", np.array([], np.int32)), "kv_bits must be"),
    "two bits": (give("kv_bits", np.array([8, 8], np.int32)), "kv_bits must be"),
    "narrow qkv": (give("qkv", np.zeros((20, 127), np.float32)), "width of its heads"),
    "flat qkv": (give("qkv", np.zeros(2560, np.float32)), "width of its heads"),
    "no sine": (give("sine", None), "go together"),
    "no cosine": (give("cosine", None), "go together"),
    "sine differs": (give("sine", np.zeros((20, 7), np.float32)), "cosine and sine must be"),
    "flat cosine": (give("cosine", np.zeros(160, np.float32)), "cosine and sine must be"),
    "q_norm short": (give("q_norm", np.zeros(15, np.float32)), "q_norm must be"),
    "k_norm long": (give("k_norm", np.zeros(17, np.float32)), "k_norm must be"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_inputs_are_exceptions(name: str) -> None:
    apply, message = HOSTILE[name]
    world = World(Case(pairs=8, norm=True), [17, 20])
    world.pages = world.pages[:, :4]
    world.pool = world.pool[:1].copy()
    world.pages[:, :2] = [[0, 1], [2, 3]]
    world.step(Piece(1, 0, 17))
    inputs = world.list_inputs([Piece(0, 0, 17), Piece(1, 17, 20)])
    apply(inputs)
    if inputs[(key := "position")].dtype != np.int32 or inputs[(key := "row_of")].dtype != np.int32:
        inputs[key] = inputs[key].astype(np.int32)
    inputs["pages"] = np.ascontiguousarray(inputs["pages"], np.int32)
    with pytest.raises(RuntimeError, match=message):
        run_operator("Attention", inputs, attributes=world.attributes)


def test_rotary_features_beyond_the_head_are_an_exception() -> None:
    world = World(replace(Case(), pairs=8), [5])
    attributes = {**world.attributes, "rotary_start": 1}
    with pytest.raises(RuntimeError, match="beyond the head"):
        run_operator("Attention", world.list_inputs([Piece(0, 0, 5)]), attributes=attributes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "must be a multiple"),
        ({"heads": 0}, "heads is 0"),
        ({"kv_heads": -1}, "kv_heads is -1"),
        ({"heads": 1 << 20}, "must be from 1 to 4096"),
        ({"key_width": 5000}, "must be from 1 to 4096"),
        ({"value_width": 0}, "value_width is 0"),
        ({"offset": -8}, "offset is -8"),
        ({"window": -1}, "window is -1"),
        ({"rotary_start": -1}, "rotary_start is -1"),
        ({"interleaved": 2}, "interleaved is 2"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    world = World(Case(), [5])
    attributes = {**world.attributes, **changes}
    with pytest.raises(RuntimeException, match=message):
        run_operator("Attention", world.list_inputs([Piece(0, 0, 5)]), attributes=attributes)
