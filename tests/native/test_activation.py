"""Activation against numpy: both kinds, gains of adapters, and independence of the batch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from tests.native.graph import run_operator

Floats = NDArray[np.float32]
GAIN = 5
"""Where the gain begins among all gains of an adapter."""


def activate(x: Floats, kind: int, gain: NDArray[Any] | float = 0) -> NDArray[np.float64]:
    """The reference, in float64."""
    gate, up = np.split(x.astype(np.float64), 2, axis=1)
    if kind == 0:
        inner = gate / (1 + np.exp(-gate))
    else:
        inner = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return inner * up * (1 + gain)


def run(x: Floats, kind: int, *, threads: int = 1, **changes: Any) -> Floats:
    names = ("adapter_pool", "adapter_slot", "row_of")
    inputs: dict[str, Any] = {"gate_up": x, **{key: changes.get(key) for key in names}}
    attributes = {"kind": kind, **{k: v for k, v in changes.items() if k not in names}}
    return run_operator("Activation", inputs, attributes=attributes, threads=threads)[0]


def make_x(tokens: int, width: int) -> Floats:
    return np.random.default_rng(0).standard_normal((tokens, 2 * width), np.float32) * 3


def make_pool(width: int, counts: list[int]) -> dict[str, Any]:
    """Two adapters of rank 2 in a model of 7 units; sequences take -1, 1, 0 in turn."""
    pool = np.full((2, GAIN + width + 3 + 14), np.nan, np.float32)
    pool[:, GAIN : GAIN + width] = np.random.default_rng(1).standard_normal((2, width))
    return {
        "adapter_pool": pool,
        "adapter_slot": np.array([-1, 1, 0], np.int32),
        "row_of": np.repeat(np.arange(3), counts).astype(np.int32),
        "gain": GAIN,
        "gains": GAIN + width + 3,
        "units": 7,
    }


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 33, 100])
@pytest.mark.parametrize("tokens", [1, 5, 15, 16, 33])
def test_matches_numpy(variant: str, kind: int, width: int, tokens: int) -> None:
    x = make_x(tokens, width)
    y = run(x, kind, threads=2)
    np.testing.assert_allclose(y, activate(x, kind), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
def test_the_whole_range(variant: str, kind: int) -> None:
    gate = np.concatenate([np.linspace(-30, 30, 5000), np.geomspace(1e-30, 1e10, 500)])
    gate = np.concatenate([gate, -gate, [0.0, -0.0]]).astype(np.float32)
    x = np.concatenate([gate, np.ones_like(gate)])[None]
    with np.errstate(over="ignore"):
        expected = activate(x, kind)
    np.testing.assert_allclose(run(x, kind), expected, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("width", [8, 37])
def test_gains_match_numpy(variant: str, kind: int, width: int) -> None:
    x = make_x(30, width)
    pool = make_pool(width, [9, 1, 20])
    y = run(x, kind, threads=2, **pool)
    slots = pool["adapter_slot"][pool["row_of"]]
    gains = pool["adapter_pool"][slots, GAIN : GAIN + width] * (slots >= 0)[:, None]
    np.testing.assert_allclose(y, activate(x, kind, gains), rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(y[:9], run(x[:9].copy(), kind))


def test_gains_of_zero_are_the_base_to_the_bit(variant: str) -> None:
    x = make_x(30, 37)
    pool = make_pool(37, [9, 1, 20])
    pool["adapter_pool"][:, GAIN : GAIN + 37] = 0
    np.testing.assert_array_equal(run(x, 0, **pool), run(x, 0))


@pytest.mark.parametrize("kind", [0, 1])
def test_a_row_alone_is_the_same_to_the_bit(variant: str, kind: int) -> None:
    x = make_x(300, 37)
    pool = make_pool(37, [100, 99, 101])
    together = run(x, kind, threads=2, **pool)
    np.testing.assert_array_equal(run(x, kind, **pool), together)
    for row in (0, 99, 100, 198, 199, 299):
        own = {**pool, "row_of": pool["row_of"][row : row + 1]}
        np.testing.assert_array_equal(run(x[row : row + 1], kind, **own)[0], together[row])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_place(variant: str, bad: float) -> None:
    x = make_x(4, 20)
    expected = run(x, 1)
    x[2, 7] = bad
    y = run(x, 1)
    assert not np.isfinite(y[2, 7])
    y[2, 7] = expected[2, 7]
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("shape", [(0, 40), (3, 0), (0, 0)])
def test_nothing(shape: tuple[int, int]) -> None:
    assert run(np.zeros(shape, np.float32), 0).shape == (shape[0], shape[1] // 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_slot": np.array([-1, 2, 0], np.int32)}, "adapter_slot out of range"),
        ({"adapter_slot": np.array([-2, 1, 0], np.int32)}, "adapter_slot out of range"),
        ({"adapter_slot": np.array([0, 1], np.int32)}, "row_of out of range"),
        ({"adapter_slot": None}, "needs slots and rows"),
        ({"row_of": None}, "needs slots and rows"),
        ({"row_of": np.array([0, -1, 0], np.int32)}, "row_of out of range"),
        ({"row_of": np.zeros(4, np.int32)}, "row_of .tokens"),
        ({"adapter_pool": np.zeros((2, 41), np.float32)}, "does not fit this model"),
        ({"adapter_pool": np.zeros((2, 20), np.float32)}, "does not fit this model"),
        ({"adapter_pool": np.zeros(42, np.float32)}, "adapter_pool must be"),
        ({"units": 0}, "does not fit this model"),
        ({"gain": 9}, "outside of the adapter"),
        ({"gain": 1 << 40}, "outside of the adapter"),
    ],
)
def test_hostile_adapters_are_exceptions(changes: dict[str, Any], message: str) -> None:
    x, pool = make_x(3, 20), make_pool(20, [1, 1, 1])
    run(x, 0, **pool)
    with pytest.raises(RuntimeError, match=message):
        run(x, 0, **{**pool, **changes})


@pytest.mark.parametrize("shape", [(3, 39), (40,), (1, 3, 40)])
def test_bad_shapes_are_exceptions(shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="gate_up must be"):
        run(np.zeros(shape, np.float32), 0)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"kind": 2}, "kind is 2"),
        ({"gain": -2}, "gain is -2"),
        ({"gains": -1}, "gains is -1"),
        ({"units": -1}, "units is -1"),
    ],
)
def test_bad_attributes_are_exceptions(attributes: dict[str, int], message: str) -> None:
    with pytest.raises(RuntimeException, match=message):
        run(make_x(3, 20), **{"kind": 0, **attributes})
