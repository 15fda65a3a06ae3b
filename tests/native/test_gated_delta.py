"""GatedDelta against numpy, whole, in pieces, and beside others."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from tests.native.graph import run_operator
from tests.native.step import BAD_STEPS, Step

OFFSET = 7
SLOTS = 3
EPSILON = 1e-5
Floats = NDArray[np.float32]


class Layer:
    """Random weights and a pool for one set of sizes."""

    def __init__(
        self, *, keys: int, values: int, key_width: int, value_width: int, taps: int = 4
    ) -> None:
        random = np.random.default_rng(keys + values)
        self.sizes = (keys, values, key_width, value_width, taps)
        self.features = 2 * keys * key_width + values * value_width
        self.values = values * value_width
        self.width = self.features + self.values + 2 * values
        self.conv = random.standard_normal((self.features, taps), np.float32)
        self.decay = random.standard_normal(values, np.float32)
        self.decay_bias = random.standard_normal(values, np.float32)
        self.norm = random.standard_normal(value_width, np.float32)
        self.state = self.features * (taps - 1) + self.values * key_width
        self.pool = random.standard_normal((SLOTS, OFFSET + self.state + 2), np.float32)
        self.random = random

    def make(self, tokens: int) -> Floats:
        return self.random.standard_normal((tokens, self.width), np.float32)

    def run(self, x: Floats, pool: Floats, step: Step, *, threads: int = 1) -> Floats:
        names = ("key_heads", "value_heads", "key_width", "value_width", "taps")
        attributes = dict(zip(names, self.sizes, strict=True))
        inputs: dict[str, Any] = {
            "projected": x,
            "conv": self.conv,
            "decay": self.decay,
            "decay_bias": self.decay_bias,
            "norm": self.norm,
            "state_pool": pool,
            **step.inputs,
        }
        attributes |= {"epsilon": EPSILON, "offset": OFFSET}
        return run_operator("GatedDelta", inputs, attributes=attributes, threads=threads)[0]


def compute(layer: Layer, x: Floats, state: Floats) -> tuple[Floats, Floats]:
    """The reference: y and the next state of one sequence, in float64."""
    keys, values, key_width, value_width, taps = layer.sizes
    at = [layer.features, layer.features + layer.values, layer.width - values]
    qkv, z, b, a = np.split(x.astype(np.float64), at, axis=1)
    cut = layer.features * (taps - 1)
    seen = np.concatenate([state[:cut].reshape(layer.features, taps - 1).T, qkv])
    mixed = np.stack([(seen[i : i + taps] * layer.conv.T).sum(0) for i in range(len(x))])
    mixed = mixed / (1 + np.exp(-mixed))
    q, k, v = np.split(mixed, [keys * key_width, 2 * keys * key_width], axis=1)
    q, k = (np.repeat(w.reshape(-1, keys, key_width), values // keys, axis=1) for w in (q, k))
    q, k = (w / np.sqrt((w * w).sum(-1, keepdims=True) + 1e-6) for w in (q, k))
    q = q / np.sqrt(key_width)
    v, z = v.reshape(-1, values, value_width), z.reshape(-1, values, value_width)
    decay = np.exp(-np.exp(layer.decay) * np.log1p(np.exp(a + layer.decay_bias)))
    beta = 1 / (1 + np.exp(-b))
    memory = state[cut:].astype(np.float64).reshape(values, key_width, value_width)
    y = np.zeros_like(v)
    for i in range(len(x)):
        memory = memory * decay[i][:, None, None]
        delta = (v[i] - np.einsum("hkv,hk->hv", memory, k[i])) * beta[i][:, None]
        memory = memory + k[i][:, :, None] * delta[:, None, :]
        y[i] = np.einsum("hkv,hk->hv", memory, q[i])
    y = y / np.sqrt((y * y).mean(-1, keepdims=True) + EPSILON) * layer.norm
    y = y * z / (1 + np.exp(-z))
    after = np.concatenate([seen[len(x) :].T.ravel(), memory.ravel()])
    return y.reshape(len(x), -1).astype(np.float32), after.astype(np.float32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"keys": 2, "values": 4, "key_width": 16, "value_width": 16},
        {"keys": 1, "values": 3, "key_width": 19, "value_width": 21, "taps": 2},
        {"keys": 2, "values": 2, "key_width": 64, "value_width": 128, "taps": 1},
        {"keys": 1, "values": 1, "key_width": 1, "value_width": 1},
        {"keys": 1, "values": 2, "key_width": 512, "value_width": 40, "taps": 16},
    ],
)
def test_matches_numpy(variant: str, sizes: dict[str, int]) -> None:
    layer = Layer(**sizes)
    x, before = layer.make(21), layer.pool.copy()
    y = layer.run(x, layer.pool, Step([13, 8], [0, 30], [2, 0]))
    first, first_state = compute(layer, x[:13], np.zeros(layer.state, np.float32))
    second, second_state = compute(layer, x[13:], before[0, OFFSET:-2])
    np.testing.assert_allclose(y, np.concatenate([first, second]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.pool[2, OFFSET:-2], first_state, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.pool[0, OFFSET:-2], second_state, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(layer.pool[1], before[1])
    np.testing.assert_array_equal(layer.pool[:, :OFFSET], before[:, :OFFSET])
    np.testing.assert_array_equal(layer.pool[:, -2:], before[:, -2:])


def test_in_pieces_and_beside_others_is_the_same_to_the_bit(variant: str) -> None:
    layer = Layer(keys=2, values=4, key_width=32, value_width=24)
    x, pool = layer.make(60), layer.pool
    whole_pool = pool.copy()
    whole = layer.run(x, whole_pool, Step([60], [0], [1]), threads=2)
    pieces: list[Floats] = []
    for start, count in ((0, 1), (1, 1), (2, 30), (32, 28)):
        part = np.concatenate([layer.make(20), x[start : start + count]])
        pieces.append(layer.run(part, pool, Step([20, count], [0, start], [0, 1]))[20:])
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(pool[1], whole_pool[1])


def test_a_fresh_sequence_does_not_see_what_the_slot_held(variant: str) -> None:
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    x = layer.make(3)
    expected = layer.run(x, layer.pool, Step([3], [0], [0]))
    layer.pool[:] = np.nan
    np.testing.assert_array_equal(layer.run(x, layer.pool, Step([3], [0], [0])), expected)


def test_great_gates_stay_finite(variant: str) -> None:
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    x = layer.make(4) * 1000
    x[0] = 0
    y = layer.run(x, layer.pool, Step([4], [0], [0]))
    assert np.isfinite(y).all()
    assert np.isfinite(layer.pool).all()


def test_no_tokens() -> None:
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    assert layer.run(layer.make(0), layer.pool, Step([0], [0], [0])).shape == (0, 16)


@pytest.mark.parametrize("name", BAD_STEPS)
def test_bad_steps_are_exceptions(name: str) -> None:
    changes, message = BAD_STEPS[name]
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    step = Step([2], [0], [0])
    for key, value in changes.items():
        setattr(step, key, value)
    x = layer.make(3 if name == "row comes back" else 2)
    with pytest.raises(RuntimeError, match=message):
        layer.run(x, layer.pool, step)


def test_bad_shapes_are_exceptions() -> None:
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    x, step = layer.make(2), Step([2], [0], [0])
    with pytest.raises(RuntimeError, match="projected must be"):
        layer.run(x[:, 1:].copy(), layer.pool, step)
    with pytest.raises(RuntimeError, match="too narrow"):
        layer.run(x, layer.pool[:, :-3].copy(), step)
    for name, message in (
        ("conv", "conv must be"),
        ("decay", "decay and decay_bias"),
        ("decay_bias", "decay and decay_bias"),
        ("norm", "norm must be"),
    ):
        kept = getattr(layer, name)
        setattr(layer, name, kept[1:].copy())
        with pytest.raises(RuntimeError, match=message):
            layer.run(x, layer.pool, step)
        setattr(layer, name, kept)


@pytest.mark.parametrize(("keys", "key_width"), [(3, 8), (0, 8), (1, 513), (1, 0)])
def test_bad_attributes_are_exceptions(keys: int, key_width: int) -> None:
    layer = Layer(keys=1, values=2, key_width=8, value_width=8)
    layer.sizes = (keys, 2, key_width, 8, 4)
    with pytest.raises(RuntimeException, match="multiple of key_heads|must be from"):
        layer.run(layer.make(2), layer.pool, Step([2], [0], [0]))
