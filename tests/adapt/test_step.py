"""A step of Adam by native code, against PyTorch's."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.adapt.pace import Pace
from fluvial.adapt.step import FIRST_DECAY, SECOND_DECAY, Memory, take_step
from fluvial.engine.adam import measure_norm, take_adam_step
from fluvial.errors import EngineError
from fluvial.native.library import use_threads

SHAPES = {"small": (1, 1), "odd": (7, 13), "large": (8, 3000), "flat": (33,)}
KEPT = 0.9
RATES = {"small": 0.1, "odd": 1e-3, "large": 0.02, "flat": 1.0}
DECAYS = (FIRST_DECAY, SECOND_DECAY)
LEEWAYS = {
    "odd": np.linspace(0, 2, 13, dtype=np.float32),
    "large": np.linspace(3, 1, 3000, dtype=np.float32),
}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("clip", [1e-3, 1.0, 1e9])
def test_steps_are_those_of_pytorch(native: bool, clip: float) -> None:
    trained, expected, memory = _draw(0), _draw(0), Memory()
    optimiser = torch.optim.Adam(
        [{"params": [each], "lr": RATES[name]} for name, each in expected.items()], betas=DECAYS
    )
    for number in range(1, 6):
        for each in (trained, expected):
            _slope(each, number)
        torch.nn.utils.clip_grad_norm_(list(expected.values()), clip)
        optimiser.step()
        with torch.no_grad():
            for each in expected.values():
                each.mul_(KEPT)
        assert _take(trained, memory, clip=clip, native=native)
        assert all(each.grad is None for each in trained.values())
    for name, each in expected.items():
        torch.testing.assert_close(trained[name], each, rtol=1e-5, atol=1e-5 * RATES[name])


@pytest.mark.parametrize("native", [True, False])
def test_outputs_move_as_far_as_they_have_leeway(native: bool) -> None:
    plain, own, memories = _draw(0), _draw(0), (Memory(), Memory())
    before = _draw(0)
    for number in (1, 2):
        for each, memory, leeways in zip((plain, own), memories, ({}, LEEWAYS), strict=True):
            _slope(each, number)
            _take(each, memory, clip=1e9, native=native, kept=1.0, leeways=leeways)
    for name, each in own.items():
        moved = (plain[name] - before[name]) * torch.from_numpy(LEEWAYS.get(name, np.ones(1, "f")))
        torch.testing.assert_close(each - before[name], moved, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nothing_moves_by_what_is_not_finite(native: bool, wrong: float) -> None:
    trained, memory = _draw(0), Memory()
    _slope(trained, 1)
    before = {name: each.detach().clone() for name, each in trained.items()}
    grad = trained["odd"].grad
    assert grad is not None
    grad[3, 3] = wrong
    assert not _take(trained, memory, clip=1.0, native=native)
    assert all(torch.equal(each, before[name]) for name, each in trained.items())
    assert memory.count == 0
    assert not memory.first


def test_what_has_no_gradient_stays() -> None:
    trained, memory = _draw(0), Memory()
    _slope(trained, 1)
    trained["odd"].grad = None
    before = trained["odd"].detach().clone()
    assert _take(trained, memory, clip=1.0, native=True)
    assert torch.equal(trained["odd"], before)
    assert "odd" not in memory.first


def test_threads_do_not_change_a_bit() -> None:
    results: list[list[bytes]] = []
    try:
        for threads in (1, 2, 3):
            use_threads(threads)
            trained, memory = _draw(0), Memory()
            for number in (1, 2):
                _slope(trained, number)
                _take(trained, memory, clip=0.5, native=True)
            results.append([each.detach().numpy().tobytes() for each in trained.values()])
    finally:
        use_threads(1)
    assert results[0] == results[1] == results[2]


def test_norm_of_large_numbers_stays_finite() -> None:
    assert measure_norm([np.full(100, 1e30, np.float32)]) == pytest.approx(1e31)
    assert measure_norm([]) == 0


def test_tensors_that_do_not_fit_are_refused() -> None:
    one, other = [np.ones((2, 3), np.float32)], [np.ones((3, 2), np.float32)]
    for values, rates in ((other, [1.0]), (one, [])):
        with pytest.raises(EngineError, match="native code takes|as many rates"):
            take_adam_step(
                values,
                *(one, one, one),
                rates=rates,
                kept=[1.0],
                leeways=[None],
                scale=1,
                decays=(0.9, 0.999),
                epsilon=1e-8,
                steps=1,
            )


def test_leeways_that_do_not_fit_are_refused() -> None:
    ones = [np.ones((2, 3), np.float32)]
    with pytest.raises(EngineError, match="native code takes"):
        take_adam_step(
            *(ones, ones, ones, ones),
            rates=[1.0],
            kept=[1.0],
            leeways=[np.ones(2, np.float32)],
            scale=1,
            decays=DECAYS,
            epsilon=1e-8,
            steps=1,
        )


def _take(
    trained: Mapping[str, Tensor],
    memory: Memory,
    *,
    clip: float,
    native: bool,
    kept: float = KEPT,
    leeways: Mapping[str, NDArray[np.float32]] = MappingProxyType({}),
) -> bool:
    paces = {name: Pace(rate, kept, leeways.get(name)) for name, rate in RATES.items()}
    with torch.no_grad():
        return take_step("adam", trained, memory, paces=paces, clip=clip, native=native)


def _draw(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).requires_grad_()
        for name, shape in SHAPES.items()
    }


def _slope(tensors: Mapping[str, Tensor], seed: int) -> None:
    for name, each in _draw(seed).items():
        tensors[name].grad = each.detach().clone()
