"""Attention against numpy: heads of every form, pages in any order, and ragged steps."""

from dataclasses import replace

import numpy as np
import pytest

from tests.native.attention import PAGE, SLAB, Case, Piece, World, assert_near

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
