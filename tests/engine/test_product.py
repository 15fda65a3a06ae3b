"""Products outside of any graph, against what the packed bytes stand for."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fluvial.engine.product import Product
from fluvial.errors import EngineError
from fluvial.model.packing import Packed
from fluvial.native.library import use_threads
from tests.native.matrix import FORMS, ROUNDED, make_matrix, multiply

SIZES = [(1, 1, 1), (16, 32, 8), (17, 33, 3), (100, 70, 13), (31, 128, 129), (520, 96, 260)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("outputs", "inputs", "rows"), SIZES)
def test_is_the_product_with_the_matrix(form: str, outputs: int, inputs: int, rows: int) -> None:
    packed, x = make_matrix(form, outputs, inputs), _draw(rows, inputs)
    _assert_close(Product(packed)(x), multiply(packed, x))


@pytest.mark.parametrize("form", ROUNDED)
def test_keeps_15_bits_of_inputs_where_asked(form: str) -> None:
    packed, x = make_matrix(form, 70, 200), _draw(9, 200)
    exact = x.astype(np.float64) @ packed.unpack().astype(np.float64).T
    fine, coarse = Product(packed, input_bits=15)(x), Product(packed)(x)
    _assert_close(fine, multiply(packed, x, input_bits=15))
    assert np.linalg.norm(fine - exact) < 0.02 * np.linalg.norm(coarse - exact)


def test_threads_do_not_change_a_bit() -> None:
    product, x = Product(make_matrix("8 bits", 700, 300)), _draw(300, 300)
    results: list[bytes] = []
    try:
        for threads in (1, 2, 3):
            use_threads(threads)
            results.append(product(x).tobytes())
    finally:
        use_threads(1)
    assert len(set(results)) == 1


def test_a_row_is_the_same_whatever_stands_beside_it() -> None:
    product, x = Product(make_matrix("8 bits", 50, 90)), _draw(20, 90)
    alone = np.concatenate([product(x[row : row + 1]) for row in range(20)])
    np.testing.assert_array_equal(product(x), alone)


def test_callers_on_several_threads_do_not_disturb_each_other() -> None:
    product, x = Product(make_matrix("8 bits", 300, 200)), _draw(100, 200)
    expected, found = product(x), [np.empty(0, np.float32)] * 4

    def run(place: int) -> None:
        for _ in range(20):
            found[place] = product(x)

    use_threads(2)
    try:
        threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        use_threads(1)
    assert all(np.array_equal(each, expected) for each in found)


def test_rows_of_zeros_and_no_rows() -> None:
    product = Product(make_matrix("8 bits", 20, 40))
    assert product(np.zeros((0, 40), np.float32)).shape == (0, 20)
    assert not product(np.zeros((3, 40), np.float32)).any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_so(value: float) -> None:
    x = _draw(3, 64)
    x[1, 5] = value
    y = Product(make_matrix("8 bits", 40, 64))(x)
    assert np.isfinite(y[[0, 2]]).all()
    assert not np.isfinite(y[1]).any()


def test_takes_rows_that_are_not_contiguous() -> None:
    packed, x = make_matrix("8 bits", 40, 64), _draw(10, 128)
    _assert_close(Product(packed)(x[::2, 64:]), multiply(packed, x[::2, 64:]))


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 63), np.float32),
        np.zeros((2, 65), np.float32),
        np.zeros(64, np.float32),
        np.zeros((1, 2, 64), np.float32),
        np.zeros((2, 64), np.float64),
    ],
)
def test_inputs_that_do_not_fit_are_refused(x: NDArray[np.float32]) -> None:
    with pytest.raises(EngineError, match=r"float32 \[rows, 64\]"):
        Product(make_matrix("8 bits", 40, 64))(x)


def _break(packed: Packed, name: str) -> Packed:
    spare = np.zeros(64, np.uint8)
    changed = {
        "too short": {"data": packed.data[:-64]},
        "too long": {"data": np.concatenate([packed.data, spare])},
        "empty": {"data": packed.data[:0]},
        "more outputs": {"outputs": packed.outputs + 16},
        "no outputs": {"outputs": 0},
        "negative": {"outputs": -16},
        "huge": {"outputs": 2**62},
        "overflowing": {"outputs": 2**63 - 8},
        "odd bits": {"bits": 7},
        "odd scales": {"scale_bytes": 3},
        "minimum at 8 bits": {"has_minimum": True},
        "every other byte": {"data": np.repeat(packed.data, 2)[::2]},
    }
    return replace(packed, **changed[name])


@pytest.mark.parametrize(
    "name",
    [
        *("too short", "too long", "empty", "more outputs", "no outputs", "negative", "huge"),
        *("overflowing", "odd bits", "odd scales", "minimum at 8 bits", "every other byte"),
    ],
)
def test_a_matrix_that_is_not_what_it_says_is_refused(name: str) -> None:
    packed = _break(make_matrix("8 bits", 40, 64), name)
    with pytest.raises(EngineError, match="a product (failed|takes a matrix)"):
        Product(packed)(_draw(2, 64))


@pytest.mark.parametrize("bits", [0, 7, 16])
def test_other_input_bits_are_refused(bits: int) -> None:
    with pytest.raises(EngineError, match="input_bits must be 8 or 15"):
        Product(make_matrix("8 bits", 40, 64), input_bits=bits)(_draw(2, 64))


def _draw(rows: int, width: int) -> NDArray[np.float32]:
    return np.random.default_rng(3).standard_normal((rows, width)).astype(np.float32)


def _assert_close(found: NDArray[np.float32], expected: NDArray[np.float64]) -> None:
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * float(scale))
