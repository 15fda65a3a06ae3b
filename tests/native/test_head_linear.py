"""HeadLinear against numpy: each head's own matrix, and independence of the batch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fluvial.model.packing import pack_floats
from tests.native.graph import run_operator

Floats = NDArray[np.float32]


def make(heads: int, outputs: int, inputs: int, tokens: int) -> tuple[Floats, Floats]:
    """Return the matrices [heads, outputs, inputs] and x [tokens, heads * inputs]."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((heads, outputs, inputs), np.float32)
    return weights, random.standard_normal((tokens, heads * inputs), np.float32)


def run(weights: Floats, x: Floats, *, threads: int = 1, **changes: Any) -> Floats:
    heads, outputs, inputs = weights.shape
    data = np.concatenate([pack_floats(each).data for each in weights])
    given = {"x": x, "data": changes.pop("data", data)}
    attributes = {"heads": heads, "in_width": inputs, "out_width": outputs, **changes}
    return run_operator("HeadLinear", given, attributes=attributes, threads=threads)[0]


@pytest.mark.parametrize("heads", [1, 3, 8])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (5, 3), (16, 32), (17, 33), (64, 24)])
@pytest.mark.parametrize("tokens", [1, 7, 130])
def test_matches_numpy(variant: str, heads: int, outputs: int, inputs: int, tokens: int) -> None:
    weights, x = make(heads, outputs, inputs, tokens)
    parts = x.astype(np.float64).reshape(tokens, heads, inputs)
    expected = np.einsum("thi,hoi->tho", parts, weights).reshape(tokens, -1)
    y = run(weights, x, threads=2)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_a_row_alone_is_the_same_to_the_bit(variant: str) -> None:
    weights, x = make(5, 37, 70, 300)
    together = run(weights, x, threads=2)
    np.testing.assert_array_equal(run(weights, x), together)
    for row in (0, 1, 150, 299):
        np.testing.assert_array_equal(run(weights, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_head(variant: str, bad: float) -> None:
    weights, x = make(3, 17, 20, 4)
    expected = run(weights, x)
    x[1, 25] = bad
    y = run(weights, x)
    assert not np.isfinite(y[1, 17:34]).any()
    y[1, 17:34] = expected[1, 17:34]
    np.testing.assert_array_equal(y, expected)


def test_no_tokens() -> None:
    assert run(*make(3, 17, 20, 0)).shape == (0, 51)


@pytest.mark.parametrize("shape", [(4, 59), (4, 61), (60,), (1, 4, 60)])
def test_bad_shapes_are_exceptions(shape: tuple[int, ...]) -> None:
    weights, _ = make(3, 17, 20, 4)
    with pytest.raises(RuntimeError, match="x must be"):
        run(weights, np.zeros(shape, np.float32))


@pytest.mark.parametrize("size", [0, 64, 3 * 2 * 2048 - 1, 3 * 2 * 2048 + 1])
def test_data_of_another_size_is_an_exception(size: int) -> None:
    with pytest.raises(RuntimeError, match="size of its matrices"):
        run(*make(3, 17, 20, 4), data=np.zeros(size, np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads is 0"),
        ({"heads": 5000}, "must be from 1 to 4096"),
        ({"in_width": 0}, "in_width is 0"),
        ({"out_width": 1 << 21}, "must be from 1"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RuntimeException, match=message):
        run(*make(3, 17, 20, 4), **changes)
