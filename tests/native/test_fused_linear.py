"""Linear with a norm or an activation inside: the same as one operator after the other."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fluvial.model.packing import Packed
from tests.native.conftest import list_variants
from tests.native.graph import run_operator
from tests.native.matrix import FORMS, describe_matrix, make_matrix

Floats = NDArray[np.float32]
ADAPTER = ("adapter_pool", "adapter_slot", "row_of")
GAIN, GAINS, UNIT, UNITS = 3, 200, 4, 500


def make(tokens: int, width: int, *, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((tokens, width), np.float32)


def run(packed: Packed, x: Floats, *, threads: int = 1, **changes: Any) -> list[Floats]:
    """Run Linear; `changes` are its other inputs and attributes. Return y, and sum where kept."""
    names = ("bias", *ADAPTER, "branch", "norm")
    given: dict[str, Any] = {"x": x, "data": changes.pop("data", packed.data)}
    given |= {name: changes.pop(name, None) for name in names}
    outputs = changes.pop("outputs", ("y", "sum") if changes.get("keep_sum") else ("y",))
    attributes = {**describe_matrix(packed), **changes}
    return run_operator("Linear", given, attributes=attributes, outputs=outputs, threads=threads)


def make_adapters(counts: list[int]) -> dict[str, Any]:
    """Two adapters of rank 3; sequences take 1, the base, and 0."""
    pool = np.random.default_rng(9).standard_normal((2, GAINS + 3 * UNITS), np.float32)
    return {
        "adapter_pool": pool,
        "adapter_slot": np.array([1, -1, 0], np.int32),
        "row_of": np.repeat(np.arange(3), counts).astype(np.int32),
    }


PLACE = {"unit": UNIT, "units": UNITS, "gains": GAINS}


def norm_rows(x: Floats, weight: Floats, epsilon: float) -> NDArray[np.float64]:
    wide = x.astype(np.float64)
    mean = np.square(wide).mean(axis=1, keepdims=True)
    return wide / np.sqrt(mean + epsilon) * weight


# --- norm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [1, 3, 33])
@pytest.mark.parametrize("width", [1, 15, 16, 33, 100])
@pytest.mark.parametrize("branch", [False, True])
def test_norm_matches_numpy(variant: str, tokens: int, width: int, branch: bool) -> None:
    """With weights in float32, so that nothing is rounded to 8 bits."""
    packed = make_matrix("32 bits", 37, width)
    x, weight = make(tokens, width), make(1, width, seed=2)[0]
    changes: dict[str, Any] = {"norm": weight, "epsilon": 1e-3}
    whole = x
    if branch:
        changes |= {"branch": make(tokens, width, seed=3), "keep_sum": 1}
        whole = x + changes["branch"]
    results = run(packed, x, threads=2, **changes)
    expected = norm_rows(whole, weight, 1e-3) @ packed.unpack().astype(np.float64).T
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    if branch:
        np.testing.assert_array_equal(results[1], whole)


@pytest.mark.parametrize("form", FORMS)
def test_norm_in_every_form(variant: str, form: str) -> None:
    """As norm, then Linear: rounding to 8 bits may go either way in few places."""
    packed = make_matrix(form, 50, 100)
    x, weight = make(9, 100), make(1, 100, seed=2)[0]
    y = run(packed, x, norm=weight, branch=make(9, 100, seed=3), bias=make(1, 50)[0])[0]
    normed = norm_rows(x + make(9, 100, seed=3), weight, 1e-6).astype(np.float32)
    expected = run(packed, normed, bias=make(1, 50)[0])[0]
    assert np.linalg.norm(y - expected) <= 2e-3 * np.linalg.norm(expected)


@pytest.mark.parametrize("form", ["4 bits, minimum", "32 bits"])
def test_sum_and_branch_are_the_same_as_x_to_the_bit(variant: str, form: str) -> None:
    packed = make_matrix(form, 50, 100)
    x, branch, weight = make(40, 100), make(40, 100, seed=3), make(1, 100, seed=2)[0]
    given = {"norm": weight, **make_adapters([10, 20, 10]), **PLACE}
    y, total = run(packed, x, branch=branch, keep_sum=1, **given)
    np.testing.assert_array_equal(total, x + branch)
    np.testing.assert_array_equal(run(packed, x, branch=branch, **given)[0], y)
    np.testing.assert_array_equal(run(packed, total, **given)[0], y)


@pytest.mark.parametrize("form", FORMS)
def test_a_normed_row_alone_is_the_same_to_the_bit(variant: str, form: str) -> None:
    packed = make_matrix(form, 300, 100)
    x, branch, weight = make(200, 100), make(200, 100, seed=3), make(1, 100, seed=2)[0]
    adapters = make_adapters([70, 60, 70])
    given = {"norm": weight, "keep_sum": 1, **PLACE}
    together = run(packed, x, branch=branch, threads=2, **given, **adapters)
    for row in (0, 1, 70, 127, 128, 131, 199):
        place = slice(row, row + 1)
        own = {**adapters, "row_of": adapters["row_of"][place], "branch": branch[place]}
        for alone, all_rows in zip(run(packed, x[place], **given, **own), together, strict=True):
            np.testing.assert_array_equal(alone[0], all_rows[row])


def test_a_row_of_zeros_is_normed_to_zeros(variant: str) -> None:
    packed = make_matrix("8 bits", 20, 40)
    y = run(packed, np.zeros((2, 40), np.float32), norm=make(1, 40)[0], bias=make(1, 20)[0])[0]
    np.testing.assert_array_equal(y, np.tile(make(1, 20), (2, 1)))


# --- activation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("gain", [-1, GAIN])
def test_activation_is_the_operator_before_it_to_the_bit(
    variant: str, form: str, kind: int, gain: int
) -> None:
    packed = make_matrix(form, 50, 100)
    x, bias = make(37, 200), make(1, 50, seed=2)[0]
    adapters = make_adapters([10, 7, 20])
    y = run(packed, x, bias=bias, activation=kind, gain=gain, threads=2, **PLACE, **adapters)[0]
    gains = adapters if gain >= 0 else {}
    attributes = {"kind": kind, "gain": gain, "gains": GAINS, "units": UNITS}
    inner = run_operator("Activation", {"gate_up": x, **gains}, attributes=attributes)[0]
    np.testing.assert_array_equal(run(packed, inner, bias=bias, **PLACE, **adapters)[0], y)


@pytest.mark.parametrize("kind", [0, 1])
def test_an_activated_row_alone_is_the_same_to_the_bit(variant: str, kind: int) -> None:
    packed = make_matrix("5 bits", 300, 101)
    x, adapters = make(200, 202), make_adapters([70, 60, 70])
    given = {"activation": kind, "gain": GAIN, **PLACE}
    together = run(packed, x, threads=2, **given, **adapters)[0]
    for row in (0, 1, 70, 127, 128, 131, 199):
        own = {**adapters, "row_of": adapters["row_of"][row : row + 1]}
        alone = run(packed, x[row : row + 1], **given, **own)[0]
        np.testing.assert_array_equal(alone[0], together[row])


@pytest.mark.skipif("avx512" not in list_variants(), reason="this machine has no AVX-512")
@pytest.mark.parametrize("form", ["4 bits, minimum", "8 bits", "32 bits"])
def test_avx512_and_avx2_are_the_same_to_the_bit(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = make_matrix(form, 77, 107)
    adapters = make_adapters([10, 7, 20])
    results: list[list[Floats]] = []
    for name in ("avx512", "avx2"):
        monkeypatch.setenv("FLUVIAL_KERNELS", name)
        normed = run(
            packed, make(37, 107), norm=make(1, 107)[0], branch=make(37, 107, seed=2), keep_sum=1
        )
        given = {"activation": 1, "gain": GAIN, **PLACE, **adapters}
        results.append([*normed, *run(packed, make(37, 214), **given)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["4 bits", "32 bits"])
@pytest.mark.parametrize("with_norm", [False, True])
def test_what_is_not_finite_stays_in_its_row(
    variant: str, bad: float, form: str, with_norm: bool
) -> None:
    packed = make_matrix(form, 40, 70)
    x = make(8, 70 if with_norm else 140)
    given: dict[str, Any] = {"norm": make(1, 70)[0]} if with_norm else {"activation": 0}
    expected = run(packed, x, **given)[0]
    x[2, 9] = x[4, 69] = bad
    y = run(packed, x, **given)[0]
    assert not np.isfinite(y[[2, 4]]).any()
    others = [0, 1, 3, 5, 6, 7]
    np.testing.assert_array_equal(y[others], expected[others])


# --- hostile input -------------------------------------------------------------------------------


def test_no_tokens() -> None:
    packed = make_matrix("4 bits", 20, 40)
    nothing = np.zeros((0, 40), np.float32)
    y, total = run(packed, nothing, branch=nothing, norm=make(1, 40)[0], keep_sum=1)
    assert (y.shape, total.shape) == ((0, 20), (0, 40))
    assert run(packed, np.zeros((0, 80), np.float32), activation=1)[0].shape == (0, 20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": np.zeros(39, np.float32)}, "norm must be"),
        ({"norm": np.zeros(0, np.float32)}, "norm must be"),
        ({"norm": np.zeros((1, 40), np.float32)}, "norm must be"),
        ({"norm": None}, "goes with a norm"),
        ({"branch": np.zeros((3, 40), np.float32)}, "branch must have the shape"),
        ({"branch": np.zeros((4, 39), np.float32)}, "branch must have the shape"),
        ({"branch": np.zeros(160, np.float32)}, "branch must have the shape"),
        ({"branch": np.zeros((0, 40), np.float32)}, "branch must have the shape"),
        ({"branch": None}, "no sum without a branch"),
        ({"x": np.zeros((4, 80), np.float32)}, "x must be"),
        ({"x": np.zeros((4, 80), np.float32), "activation": 0}, "exclude each other"),
        ({"activation": 0}, "x must be"),
    ],
)
def test_hostile_norms_are_exceptions(changes: dict[str, Any], message: str) -> None:
    packed = make_matrix("4 bits", 20, 40)
    given = {"x": make(4, 40), "branch": make(4, 40), "norm": make(1, 40)[0], "keep_sum": 1}
    run(packed, **given)
    with pytest.raises(RuntimeError, match=message):
        run(packed, **{**given, **changes})


def test_a_sum_that_nothing_takes_is_an_exception() -> None:
    packed = make_matrix("4 bits", 20, 40)
    given = {"branch": make(4, 40), "norm": make(1, 40)[0]}
    with pytest.raises(RuntimeError):
        run(packed, make(4, 40), **given, keep_sum=1, outputs=("y",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": np.zeros((4, 40), np.float32)}, "x must be"),
        ({"x": np.zeros((4, 79), np.float32)}, "x must be"),
        ({"gain": GAINS - 39}, "outside of it"),
        ({"gain": 1 << 40}, "outside of it"),
        ({"gains": 1 << 40}, "does not fit this model"),
        ({"unit": UNITS - 59}, "outside of it"),
        ({"row_of": np.full(4, 3, np.int32)}, "row_of out of range"),
        ({"adapter_slot": np.array([2, 0, 0], np.int32)}, "adapter_slot out of range"),
    ],
)
def test_hostile_activations_are_exceptions(changes: dict[str, Any], message: str) -> None:
    packed = make_matrix("4 bits", 20, 40)
    given = {"x": make(4, 80), "activation": 0, "gain": GAIN, **PLACE, **make_adapters([1, 2, 1])}
    run(packed, **given)
    with pytest.raises(RuntimeError, match=message):
        run(packed, **{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": 2}, "activation is 2"),
        ({"activation": -2}, "activation is -2"),
        ({"gain": -2}, "gain is -2"),
        ({"keep_sum": 2}, "keep_sum is 2"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    packed = make_matrix("4 bits", 20, 40)
    with pytest.raises(RuntimeException, match=message):
        run(packed, make(4, 40), outputs=("y",), **changes)
