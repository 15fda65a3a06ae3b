"""ShortConv against numpy, whole, in pieces, and beside others."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

from tests.native.graph import run_operator
from tests.native.step import BAD_STEPS, Step

OFFSET = 5
SLOTS = 3
Floats = NDArray[np.float32]


def convolve(bcx: Floats, weight: Floats, state: Floats) -> tuple[Floats, Floats]:
    """The reference: y and the next state of one sequence, in float64."""
    b, c, x = np.split(bcx.astype(np.float64), 3, axis=1)
    taps = weight.shape[1]
    seen = np.concatenate([state.astype(np.float64).T, b * x])
    y = np.stack([(seen[i : i + taps] * weight.T).sum(0) for i in range(len(x))])
    return (c * y).astype(np.float32), seen[len(x) :].T.astype(np.float32)


def make(width: int, taps: int, tokens: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    random = np.random.default_rng(seed)
    bcx = random.standard_normal((tokens, 3 * width), np.float32)
    weight = random.standard_normal((width, taps), np.float32)
    pool = random.standard_normal((SLOTS, OFFSET + width * (taps - 1) + 3), np.float32)
    return bcx, weight, pool


def run(bcx: Floats, weight: Floats, pool: Floats, step: Step, *, threads: int = 1) -> Floats:
    attributes = {"width": weight.shape[0], "taps": weight.shape[1], "offset": OFFSET}
    inputs: dict[str, Any] = {"bcx": bcx, "weight": weight, "state_pool": pool, **step.inputs}
    return run_operator("ShortConv", inputs, attributes=attributes, threads=threads)[0]


@pytest.mark.parametrize("width", [1, 16, 37, 600])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 16])
def test_matches_numpy(variant: str, width: int, taps: int) -> None:
    bcx, weight, pool = make(width, taps, 12)
    before = pool.copy()
    states = before[:, OFFSET : OFFSET + width * (taps - 1)].reshape(SLOTS, width, taps - 1)
    y = run(bcx, weight, pool, Step([7, 5], [0, 30], [2, 0]))
    first, first_state = convolve(bcx[:7], weight, np.zeros((width, taps - 1), np.float32))
    second, second_state = convolve(bcx[7:], weight, states[0])
    np.testing.assert_allclose(y, np.concatenate([first, second]), rtol=1e-5, atol=1e-5)
    expected = before.copy()
    expected[2, OFFSET:-3] = first_state.ravel()
    expected[0, OFFSET:-3] = second_state.ravel()
    np.testing.assert_allclose(pool, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(pool[1], before[1])
    np.testing.assert_array_equal(pool[:, :OFFSET], before[:, :OFFSET])
    np.testing.assert_array_equal(pool[:, -3:], before[:, -3:])


def test_in_pieces_and_beside_others_is_the_same_to_the_bit(variant: str) -> None:
    bcx, weight, pool = make(300, 3, 90)
    whole_pool = pool.copy()
    whole = run(bcx, weight, whole_pool, Step([90], [0], [1]), threads=2)
    pieces: list[Floats] = []
    for start, count in ((0, 1), (1, 1), (2, 40), (42, 48)):
        other = make(300, 3, 5, seed=start)[0]
        step = Step([5, count], [0, start], [0, 1])
        part = np.concatenate([other, bcx[start : start + count]])
        pieces.append(run(part, weight, pool, step)[5:])
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(pool[1], whole_pool[1])


def test_a_fresh_sequence_does_not_see_what_the_slot_held(variant: str) -> None:
    bcx, weight, pool = make(20, 3, 4)
    expected = run(bcx, weight, pool.copy(), Step([4], [0], [0]))
    pool[:] = np.nan
    np.testing.assert_array_equal(run(bcx, weight, pool, Step([4], [0], [0])), expected)


def test_no_tokens() -> None:
    bcx, weight, pool = make(20, 3, 0)
    assert run(bcx, weight, pool, Step([0], [0], [0])).shape == (0, 20)


@pytest.mark.parametrize("name", BAD_STEPS)
def test_bad_steps_are_exceptions(name: str) -> None:
    changes, message = BAD_STEPS[name]
    bcx, weight, pool = make(20, 3, 3 if name == "row comes back" else 2)
    step = Step([2], [0], [0])
    for key, value in changes.items():
        setattr(step, key, value)
    with pytest.raises(RuntimeError, match=message):
        run(bcx, weight, pool, step)


def test_bad_shapes_are_exceptions() -> None:
    bcx, weight, pool = make(20, 3, 2)
    step = Step([2], [0], [0])
    with pytest.raises(RuntimeError, match="bcx must be"):
        run(bcx[:, :59].copy(), weight, pool, step)
    with pytest.raises(RuntimeError, match="too narrow"):
        run(bcx, weight, pool[:, : OFFSET + 39].copy(), step)
    with pytest.raises(RuntimeError, match="must be .slots, floats"):
        run(bcx, weight, pool[0], step)
    with pytest.raises(RuntimeException, match="taps is 17"):
        run(bcx, np.zeros((20, 17), np.float32), pool, step)
