"""Embed against what the packed bytes stand for."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from fluvial.model.packing import Packed
from tests.native.graph import run_operator
from tests.native.matrix import FORMS, describe_matrix, make_matrix


def run(packed: Packed, tokens: Any, **changes: Any) -> NDArray[np.float32]:
    inputs = {"tokens": np.array(tokens, np.int64), "data": changes.pop("data", packed.data)}
    attributes = {**describe_matrix(packed), "scale": 1.0, **changes}
    return run_operator("Embed", inputs, attributes=attributes)[0]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (16, 32), (17, 33), (100, 70), (31, 128)])
def test_gives_the_rows_of_the_matrix(form: str, rows: int, width: int) -> None:
    packed = make_matrix(form, rows, width)
    tokens = np.random.default_rng(0).integers(0, rows, 3 * rows)
    # one rounding more or less where there is a minimum
    np.testing.assert_allclose(run(packed, tokens), packed.unpack()[tokens], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(
        run(packed, [rows - 1], scale=3.5), packed.unpack()[-1:] * 3.5, rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("form", [name for name in FORMS if "minimum" not in name])
def test_without_a_minimum_it_is_exact(form: str) -> None:
    packed = make_matrix(form, 40, 70)
    np.testing.assert_array_equal(run(packed, np.arange(40)), packed.unpack())


def test_every_half_is_widened_exactly() -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    packed = make_matrix("8 bits", 1 << 16, 32)
    tiles = packed.data.reshape(1 << 12, -1)
    tiles[:, :512] = 129
    tiles[:, 512:544] = halves.reshape(-1, 16).view(np.uint8)
    y = run(packed, np.arange(1 << 16))
    with np.errstate(invalid="ignore"):
        expected = halves.astype(np.float32)
    np.testing.assert_array_equal(y, np.tile(expected[:, None], 32))
    kept = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(y[kept, 0]), np.signbit(expected[kept]))


def test_no_tokens() -> None:
    assert run(make_matrix("4 bits", 20, 40), []).shape == (0, 40)


@pytest.mark.parametrize("token", [-1, 20, 31, 32, 2**31, 2**63 - 1, -(2**63)])
def test_tokens_out_of_range_are_exceptions(token: int) -> None:
    with pytest.raises(RuntimeError, match="is not one of 20"):
        run(make_matrix("4 bits", 20, 40), [3, token, 5])


@pytest.mark.parametrize("data", [np.zeros(0, np.uint8), np.zeros(64, np.uint8)])
def test_data_of_another_size_is_an_exception(data: NDArray[np.uint8]) -> None:
    with pytest.raises(RuntimeError, match="data has"):
        run(make_matrix("4 bits", 20, 40), [3], data=data)


@pytest.mark.parametrize("tokens", [3, [[3]]])
def test_tokens_of_another_shape_are_an_exception(tokens: Any) -> None:
    with pytest.raises(RuntimeError, match="tokens must have one dimension"):
        run(make_matrix("4 bits", 20, 40), tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 7}, "bits must be"),
        ({"scale_bytes": 3}, "scale_bytes must be"),
        ({"bits": 8, "has_minimum": 1}, "only 4 and 5 bits"),
        ({"in_width": 0}, "in_width is 0"),
        ({"out_width": 1 << 40}, "must be from 1"),
    ],
)
def test_bad_attributes_are_exceptions(changes: dict[str, int], message: str) -> None:
    with pytest.raises(RuntimeException, match=message):
        run(make_matrix("4 bits", 20, 40), [3], **changes)
