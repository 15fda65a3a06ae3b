"""Linear against numpy: every packed form, adapters, and independence of the batch."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fluvial.model.packing import Packed, pack
from tests.native.conftest import list_variants
from tests.native.graph import run_operator
from tests.native.matrix import (
    FORMS,
    ROUNDED,
    describe_matrix,
    make_matrix,
    make_tensor,
    multiply,
)

Floats = NDArray[np.float32]
BOTH = pytest.mark.parametrize("input_bits", [8, 15])
WIDTHS = [(1, 1), (5, 3), (16, 32), (17, 33), (31, 31), (48, 64), (100, 129), (130, 300)]
"""(outputs, inputs); tiles are of 16 outputs and blocks of 32 inputs."""


def make_x(tokens: int, inputs: int, *, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((tokens, inputs), np.float32)


def run(
    packed: Packed,
    x: Floats,
    bias: Floats | None = None,
    *,
    adapters: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
    threads: int = 1,
    input_bits: int = 8,
) -> Floats:
    inputs: dict[str, Any] = {"x": x, "data": packed.data, "bias": bias, **(adapters or {})}
    attributes = {**describe_matrix(packed), "input_bits": input_bits, **(attributes or {})}
    return run_operator("Linear", inputs, attributes=attributes, threads=threads)[0]


def assert_near(y: Floats, expected: NDArray[np.float64]) -> None:
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=3e-6 * largest)


@BOTH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("outputs", "inputs"), WIDTHS)
def test_matches_numpy(variant: str, form: str, outputs: int, inputs: int, input_bits: int) -> None:
    packed = make_matrix(form, outputs, inputs)
    x = make_x(11, inputs)
    bias = make_x(1, outputs, seed=2)[0]
    expected = multiply(packed, x, input_bits=input_bits) + bias
    assert_near(run(packed, x, bias, input_bits=input_bits), expected)


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "F16", "BF16", "F32"])
def test_other_types_of_the_file_take_one_of_these_forms(variant: str, kind: str) -> None:
    packed = pack([make_tensor(kind, 37, 512)])
    x = make_x(5, 512)
    assert_near(run(packed, x), multiply(packed, x))


@BOTH
@pytest.mark.parametrize("form", ROUNDED)
def test_rounding_of_inputs_costs_at_most_half_a_step_each(
    variant: str, form: str, input_bits: int
) -> None:
    packed = make_matrix(form, 40, 96)
    x = make_x(9, 96) * np.exp(make_x(9, 96, seed=3))
    weights = packed.unpack().astype(np.float64)
    steps = np.abs(x.reshape(9, 3, 32)).max(axis=-1) / (127 if input_bits == 8 else 127 * 128)
    slack = np.einsum("tb,obk->to", steps / 2, np.abs(weights.reshape(40, 3, 32)))
    # sums of floats are rounded too, which counts beside the smaller of the two steps
    sums = 1e-6 * np.abs(x).astype(np.float64) @ np.abs(weights.T)
    error = np.abs(run(packed, x, input_bits=input_bits) - x.astype(np.float64) @ weights.T)
    assert (error <= 1.001 * slack + sums).all()
    assert (error > 0).any()


@BOTH
@pytest.mark.parametrize("tokens", [*range(1, 19), 127, 128, 129, 300])
def test_any_number_of_tokens(variant: str, tokens: int, input_bits: int) -> None:
    packed = make_matrix("4 bits, minimum", 50, 70)
    x = make_x(tokens, 70)
    expected = multiply(packed, x, input_bits=input_bits)
    assert_near(run(packed, x, threads=2, input_bits=input_bits), expected)


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_a_row_alone_is_the_same_to_the_bit(variant: str, form: str, input_bits: int) -> None:
    packed = make_matrix(form, 900, 100)
    x, bias = make_x(300, 100), make_x(1, 900, seed=2)[0]
    together = run(packed, x, bias, threads=2, input_bits=input_bits)
    np.testing.assert_array_equal(run(packed, x, bias, input_bits=input_bits), together)
    for row in (0, 1, 7, 127, 128, 295, 299):
        alone = run(packed, x[row : row + 1], bias, input_bits=input_bits)
        np.testing.assert_array_equal(alone[0], together[row])
    for start, end in ((0, 2), (3, 6), (8, 15), (120, 140), (9, 200)):
        part = run(packed, x[start:end], bias, threads=2, input_bits=input_bits)
        np.testing.assert_array_equal(part, together[start:end])


@BOTH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.skipif("avx512" not in list_variants(), reason="this machine has no AVX-512")
def test_avx512_and_avx2_are_the_same_to_the_bit(
    form: str, input_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = make_matrix(form, 77, 300)
    x, bias = make_x(23, 300), make_x(1, 77, seed=2)[0]
    adapters, attributes = make_pool(packed, [8, 3], [1, -1, 0], [5, 10, 8]).arguments
    results: list[Floats] = []
    for name in ("avx512", "avx2"):
        monkeypatch.setenv("FLUVIAL_KERNELS", name)
        results.append(
            run(packed, x, bias, adapters=adapters, attributes=attributes, input_bits=input_bits)
        )
    np.testing.assert_array_equal(*results)


@BOTH
@pytest.mark.parametrize("byte", [-128, -127, -1, 0, 1, 127])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_integers(variant: str, byte: int, sign: int, input_bits: int) -> None:
    """All weights alike, among them -128, and inputs that round to 127 or -127: sums are exact."""
    tensor = make_tensor("Q8_0", 32, 64)
    blocks = tensor.blocks.reshape(32, 2, 34)
    blocks[..., :2] = np.array([1], np.float16).view(np.uint8)
    blocks[..., 2:] = np.array(byte, np.int8).view(np.uint8)
    packed = pack([tensor])
    assert (packed.unpack() == byte).all()
    x = np.full((3, 64), 127 * sign, np.float32)
    y = run(packed, x, input_bits=input_bits)
    np.testing.assert_array_equal(y, np.full((3, 32), 64 * 127.0 * byte * sign))


@BOTH
@pytest.mark.parametrize("form", ["4 bits", "4 bits, minimum", "5 bits", "5 bits, minimum"])
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_nibbles(variant: str, form: str, sign: int, input_bits: int) -> None:
    tensor = make_tensor(FORMS[form][0], 32, 64)
    blocks = tensor.blocks.reshape(32, 2, -1)
    blocks[:] = 255
    ones = np.array([1, 1] if "minimum" in form else [1], np.float16).view(np.uint8)
    blocks[..., : len(ones)] = ones
    packed = pack([tensor])
    x = np.full((3, 64), 127 * sign, np.float32)
    y, expected = run(packed, x, input_bits=input_bits), multiply(packed, x, input_bits=input_bits)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("tokens", [1, 4, 13])
def test_integers_of_15_bits_are_multiplied_exactly(variant: str, tokens: int) -> None:
    """Every value of an input as it is, with weights of scale 1: no sum has more than 24 bits."""
    tensor = make_tensor("Q4_0", 32, 64)
    tensor.blocks.reshape(32, 2, 18)[..., :2] = np.array([1], np.float16).view(np.uint8)
    packed = pack([tensor])
    most = 127 * 128
    values = np.arange(-most, most + 1).astype(np.float32)
    values = np.random.default_rng(3).permutation(values)[: 62 * 524].reshape(-1, 62)
    x = np.concatenate([np.full((524, 1), most), values, np.full((524, 1), -most)], axis=1)
    x = np.ascontiguousarray(x, np.float32)
    parts = [run(packed, x[at : at + tokens], input_bits=15) for at in range(0, 65, tokens)]
    expected = (x.astype(np.float64) @ packed.unpack().T.astype(np.float64)).astype(np.float32)
    found = np.concatenate(parts)
    np.testing.assert_array_equal(found, expected[: len(found)])
    np.testing.assert_array_equal(run(packed, x, threads=2, input_bits=15), expected)


@pytest.mark.parametrize("scale_bytes", [2, 4])
def test_scales_of_any_value_are_read_exactly(variant: str, scale_bytes: int) -> None:
    """127 times a float16 has no more bits than a float32, so the product is exact."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    packed = make_matrix("8 bits" + (", float32 scales" if scale_bytes == 4 else ""), 1 << 16, 32)
    tiles = packed.data.reshape(1 << 12, -1)
    tiles[:, :512] = 129
    kind = np.float16 if scale_bytes == 2 else np.float32
    with np.errstate(invalid="ignore"):
        scales = halves.reshape(-1, 16).astype(kind)
        expected = halves.astype(np.float32) * np.float32(127)
    tiles[:, 512 : 512 + 16 * scale_bytes] = scales.view(np.uint8)
    x = np.zeros((1, 32), np.float32)
    x[0, 5] = 127
    np.testing.assert_array_equal(run(packed, x)[0], expected)


# --- inputs that are zero, tiny, huge, or not finite ---------------------------------------------


@BOTH
@pytest.mark.parametrize("form", FORMS)
def test_zeros_give_the_bias(variant: str, form: str, input_bits: int) -> None:
    packed = make_matrix(form, 40, 70)
    bias = make_x(1, 40, seed=2)[0]
    x = np.zeros((3, 70), np.float32)
    np.testing.assert_array_equal(
        run(packed, x, bias, input_bits=input_bits), np.tile(bias, (3, 1))
    )
    tiny = np.full((3, 70), 1e-38, np.float32)
    assert np.abs(run(packed, tiny, input_bits=input_bits)).max() < 1e-25


def test_large_and_small_blocks_stand_side_by_side(variant: str) -> None:
    packed = make_matrix("4 bits", 20, 96)
    x = make_x(4, 96) * np.repeat(np.array([1e20, 1, 1e-20], np.float32), 32)
    assert_near(run(packed, x), multiply(packed, x))


@BOTH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_row(
    variant: str, form: str, bad: float, input_bits: int
) -> None:
    packed = make_matrix(form, 40, 70)
    x = make_x(12, 70)
    expected = run(packed, x, input_bits=input_bits)
    for row, place in enumerate((0, 7, 9, 17, 31, 69)):
        x[2 * row, place] = bad
    y = run(packed, x, input_bits=input_bits)
    assert not np.isfinite(y[::2]).any()
    np.testing.assert_array_equal(y[1::2], expected[1::2])


# --- adapters ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Adapters of one linear, with gains before it and the matrices of others around it."""

    pool: Floats
    slots: NDArray[np.int32]
    row_of: NDArray[np.int32]
    a: list[Floats]
    b: list[Floats]
    gains: int = 6
    before: int = 10
    units: int

    @property
    def arguments(self) -> tuple[dict[str, Any], dict[str, Any]]:
        inputs = {"adapter_pool": self.pool, "adapter_slot": self.slots, "row_of": self.row_of}
        return inputs, {"unit": self.before, "units": self.units, "gains": self.gains}

    def change(self, x: Floats) -> NDArray[np.float64]:
        """What the adapters add, in float64."""
        rows: list[NDArray[np.float64]] = []
        for row, each in enumerate(x.astype(np.float64)):
            slot = self.slots[self.row_of[row]]
            outputs = self.b[0].shape[1]
            rows.append(each @ self.a[slot] @ self.b[slot] if slot >= 0 else np.zeros(outputs))
        return np.array(rows)


def make_pool(
    packed: Packed, ranks: list[int], slots: list[int], counts: list[int], *, widest: int = 0
) -> Pool:
    """Slot i has an adapter of ranks[i], filled up to the greatest; what is not its own is NaN."""
    rank = max([*ranks, widest])
    gains, before = 6, 10
    units = before + packed.inputs + packed.outputs + 7
    pool = np.full((len(ranks), gains + units * rank), np.nan, np.float32)
    all_a: list[Floats] = []
    all_b: list[Floats] = []
    for slot, own in enumerate(ranks):
        random = np.random.default_rng(100 + slot)
        a = random.standard_normal((packed.inputs, own), np.float32)
        b = random.standard_normal((own, packed.outputs), np.float32)
        at = gains + before * rank
        wide_a = np.pad(a, ((0, 0), (0, rank - own)))
        wide_b = np.pad(b, ((0, rank - own), (0, 0)))
        pool[slot, at : at + wide_a.size] = wide_a.ravel()
        pool[slot, at + wide_a.size : at + wide_a.size + wide_b.size] = wide_b.ravel()
        all_a.append(a)
        all_b.append(b)
    return Pool(
        pool=pool,
        slots=np.array(slots, np.int32),
        row_of=np.repeat(np.arange(len(counts)), counts).astype(np.int32),
        a=all_a,
        b=all_b,
        units=units,
    )


@pytest.mark.parametrize("ranks", [[1], [4, 2], [8, 1, 5], [9, 16], [32, 3]])
@pytest.mark.parametrize(("outputs", "inputs"), [(5, 3), (17, 33), (64, 70), (130, 64)])
def test_adapters_match_numpy(variant: str, ranks: list[int], outputs: int, inputs: int) -> None:
    packed = make_matrix("4 bits", outputs, inputs)
    slots = [-1, *range(len(ranks)), 0, -1]
    pool = make_pool(packed, ranks, slots, [1 + 3 * i for i in range(len(slots))])
    x = make_x(len(pool.row_of), inputs)
    adapters, attributes = pool.arguments
    y = run(packed, x, adapters=adapters, attributes=attributes, threads=2)
    assert_near(y, multiply(packed, x) + pool.change(x))


@pytest.mark.parametrize("form", ["5 bits, minimum", "32 bits"])
def test_a_row_with_an_adapter_alone_is_the_same_to_the_bit(variant: str, form: str) -> None:
    packed = make_matrix(form, 901, 100)
    pool = make_pool(packed, [8, 5, 3], [0, 2, -1, 1], [100, 1, 40, 59])
    x = make_x(200, 100)
    adapters, attributes = pool.arguments
    together = run(packed, x, adapters=adapters, attributes=attributes, threads=2)
    for row in (0, 99, 100, 101, 140, 141, 199):
        own = {**adapters, "row_of": pool.row_of[row : row + 1]}
        alone = run(packed, x[row : row + 1], adapters=own, attributes=attributes)
        np.testing.assert_array_equal(alone[0], together[row])
    plain = run(packed, x)
    np.testing.assert_array_equal(together[101:141], plain[101:141])
    assert (together[:101] != plain[:101]).any(axis=1).all()


def test_a_wider_pool_changes_no_bit(variant: str) -> None:
    packed = make_matrix("4 bits", 70, 90)
    x = make_x(12, 90)
    results: list[Floats] = []
    for widest in (5, 8, 24):
        pool = make_pool(packed, [5], [0], [12], widest=widest)
        adapters, attributes = pool.arguments
        results.append(run(packed, x, adapters=adapters, attributes=attributes))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("rank", [0, 4])
def test_an_adapter_of_zeros_is_the_base_to_the_bit(variant: str, rank: int) -> None:
    packed = make_matrix("8 bits", 70, 90)
    x = make_x(12, 90)
    pool = make_pool(packed, [rank], [0], [12])
    pool.pool[0, pool.gains + (pool.before + 90) * rank :] = 0
    adapters, attributes = pool.arguments
    y = run(packed, x, adapters=adapters, attributes=attributes)
    np.testing.assert_array_equal(y, run(packed, x))


def test_a_linear_without_a_place_in_the_adapter_takes_none() -> None:
    packed = make_matrix("8 bits", 70, 90)
    x = make_x(12, 90)
    pool = make_pool(packed, [4], [0], [12])
    adapters, attributes = pool.arguments
    y = run(packed, x, adapters=adapters, attributes={**attributes, "unit": -1})
    np.testing.assert_array_equal(y, run(packed, x))


# --- hostile input -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_no_tokens(form: str) -> None:
    assert run(make_matrix(form, 20, 40), make_x(0, 40)).shape == (0, 20)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", np.zeros((4, 39), np.float32), "x must be"),
        ("x", np.zeros((4, 41), np.float32), "x must be"),
        ("x", np.zeros(40, np.float32), "x must be"),
        ("x", np.zeros((1, 4, 40), np.float32), "x must be"),
        ("data", np.zeros(64, np.uint8), "data does not have the size"),
        ("data", np.zeros(0, np.uint8), "data does not have the size"),
        ("data", np.zeros(5000, np.uint8), "data does not have the size"),
        ("bias", np.zeros(19, np.float32), "bias must be"),
        ("bias", np.zeros(0, np.float32), "bias must be"),
        ("adapter_pool", np.zeros((2, 5), np.float32), "does not fit this model"),
        ("adapter_pool", np.zeros((2, 7), np.float32), "does not fit this model"),
        ("adapter_pool", np.zeros(83, np.float32), "adapter_pool must be"),
        ("adapter_pool", np.zeros((0, 83), np.float32), "adapter_slot out of range"),
        ("adapter_slot", np.array([2], np.int32), "adapter_slot out of range"),
        ("adapter_slot", np.array([-2], np.int32), "adapter_slot out of range"),
        ("adapter_slot", np.array([2**31 - 1], np.int32), "adapter_slot out of range"),
        ("adapter_slot", np.zeros(0, np.int32), "row_of out of range"),
        ("adapter_slot", np.zeros((1, 1), np.int32), "adapter_pool must be"),
        ("adapter_slot", None, "needs slots and rows"),
        ("row_of", np.array([0, 0, 0, 1], np.int32), "row_of out of range"),
        ("row_of", np.array([-1, 0, 0, 0], np.int32), "row_of out of range"),
        ("row_of", np.zeros(3, np.int32), "row_of .tokens"),
        ("row_of", np.zeros(5, np.int32), "row_of .tokens"),
        ("row_of", None, "needs slots and rows"),
    ],
)
def test_bad_inputs_are_exceptions(name: str, value: NDArray[Any] | None, message: str) -> None:
    packed = make_matrix("4 bits", 20, 40)
    pool = make_pool(packed, [4, 2], [1], [4])
    adapters, attributes = pool.arguments
    inputs: dict[str, Any] = {"x": make_x(4, 40), "data": packed.data, "bias": None, **adapters}
    attributes = {**describe_matrix(packed), **attributes}
    run_operator("Linear", inputs, attributes=attributes)
    with pytest.raises(RuntimeError, match=message):
        run_operator("Linear", {**inputs, name: value}, attributes=attributes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_width": 0}, "in_width is 0"),
        ({"in_width": 1 << 30}, "must be from 1"),
        ({"out_width": -1}, "out_width is -1"),
        ({"bits": 6}, "bits must be"),
        ({"bits": 3}, "bits is 3"),
        ({"scale_bytes": 3}, "scale_bytes must be"),
        ({"input_bits": 7}, "input_bits is 7"),
        ({"input_bits": 9}, "input_bits must be 8 or 15"),
        ({"input_bits": 16}, "input_bits is 16"),
        ({"bits": 8, "has_minimum": 1}, "only 4 and 5 bits"),
        ({"bits": 32, "has_minimum": 1}, "only 4 and 5 bits"),
        ({"has_minimum": 2}, "has_minimum is 2"),
        ({"unit": -2}, "unit is -2"),
        ({"gains": -1}, "gains is -1"),
        ({"units": 1 << 50}, "units is"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    packed = make_matrix("4 bits", 20, 40)
    with pytest.raises(RuntimeException, match=message):
        run(packed, make_x(2, 40), attributes=changes)


def test_a_place_outside_of_the_adapter_is_an_exception() -> None:
    packed = make_matrix("4 bits", 20, 40)
    adapters, attributes = make_pool(packed, [4], [0], [2]).arguments
    for unit in (18, 10**9, 1 << 40):
        with pytest.raises(RuntimeError, match="outside of it"):
            run(packed, make_x(2, 40), adapters=adapters, attributes={**attributes, "unit": unit})


def test_bytes_of_another_form_are_an_exception() -> None:
    packed = make_matrix("4 bits", 20, 40)
    with pytest.raises(RuntimeError, match="data does not have the size"):
        run(replace(packed, bits=5), make_x(2, 40))
