"""What stays in the draw: against slow and plain code, and against `transformers`."""

import os
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fluvial.engine import warper
from fluvial.types import Sampling

Logits = NDArray[np.float32]

# Few distinct values, so that ties are common; some far apart.
coarse = st.integers(-8, 8).map(lambda n: n / 2)
wild = st.floats(width=32, allow_nan=False, allow_infinity=False)
some_logits = arrays(np.float32, st.integers(1, 60), elements=coarse | wild)
temperatures = st.floats(0.01, 2.0) | st.sampled_from([5e-324, 1e-300, 1e-30, 1e-6])


def naive_nucleus(logits: Logits, *, temperature: float, top_p: float) -> list[int]:
    """Sort everything, then take until the mass is reached."""
    with np.errstate(all="ignore"):
        scale = np.float32(min(1 / temperature, float(np.finfo(np.float32).max)))
        weights = np.exp((logits - logits.max()) * scale)
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    wanted, mass, taken = top_p * float(weights.sum(dtype=np.float64)), 0.0, []
    for token in order:
        taken.append(token)
        mass += float(weights[token])
        if mass >= wanted:
            break
    return sorted(taken)


@given(logits=some_logits, temperature=temperatures, top_p=st.floats(0.01, 0.999))
def test_fast_nucleus_is_the_naive_one(logits: Logits, temperature: float, top_p: float) -> None:
    kept = warper.keep_top_p(logits, temperature=temperature, mass=top_p)
    assert kept.tolist() == naive_nucleus(logits, temperature=temperature, top_p=top_p)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 10.0])
def test_fast_nucleus_is_the_naive_one_on_a_large_vocabulary(spread: float) -> None:
    noise = np.random.default_rng(3).normal(size=20_000)
    logits = np.round(noise * spread, 2).astype(np.float32)
    for top_p in (0.1, 0.9, 0.999):
        kept = warper.keep_top_p(logits, temperature=0.8, mass=top_p)
        assert kept.tolist() == naive_nucleus(logits, temperature=0.8, top_p=top_p)


@given(logits=some_logits, count=st.integers(1, 60))
def test_top_k_takes_the_highest_and_of_equals_the_lower_ids(logits: Logits, count: int) -> None:
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    assert warper.keep_top_k(logits, count=count).tolist() == sorted(order[:count])
    assert warper.rank_highest(logits, count=count).tolist() == order[:count]


@pytest.mark.parametrize("count", [1, 2, 40, 79, 80, 500, 19_999, 20_000])
def test_top_k_on_a_large_vocabulary(count: int) -> None:
    noise = np.random.default_rng(4).normal(size=20_000).astype(np.float32)
    for logits in (noise, np.round(noise), np.sort(noise), np.zeros_like(noise)):
        order = np.lexsort((np.arange(20_000), -logits))
        assert warper.keep_top_k(logits, count=count).tolist() == sorted(order[:count].tolist())


def test_nothing_is_ranked_where_nothing_is_asked_for() -> None:
    assert warper.rank_highest(np.zeros(4, np.float32), count=0).tolist() == []


@given(
    weights=arrays(
        np.float32, st.integers(1, 900), elements=st.sampled_from([0, 0, 1e-30, 0.25, 1])
    ),
    at=st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
def test_picking_in_blocks_is_picking(weights: Logits, at: float) -> None:
    weights[len(weights) // 2] = 1
    place = warper.pick(weights, at=at)
    masses = np.cumsum(weights, dtype=np.float64)
    assert weights[place] > 0
    before = masses[place - 1] if place else 0.0
    assert before - 1e-9 <= at * masses[-1] <= masses[place] + 1e-9


def test_a_share_picks_the_token_it_falls_on() -> None:
    weights = np.array([0, 1, 0, 3, 0], np.float32)
    assert [warper.pick(weights, at=at) for at in (0, 0.24, 0.25, 0.99)] == [1, 1, 3, 3]
    assert warper.pick(np.tile(weights, 1000), at=0.5) == 2501


CASES: list[dict[str, Any]] = [
    {"top_k": 1},
    {"top_k": 50},
    {"top_p": 0.1},
    {"top_p": 0.95},
    {"min_p": 0.02},
    {"min_p": 0.5},
    {"typical_p": 0.2},
    {"typical_p": 0.95},
    {"top_k": 200, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.8},
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
def test_the_same_tokens_stay_as_in_transformers(case: dict[str, Any], temperature: float) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch = pytest.importorskip("torch")
    oracle = pytest.importorskip("transformers.generation.logits_process")
    makers = {
        "top_k": oracle.TopKLogitsWarper,
        "top_p": oracle.TopPLogitsWarper,
        "min_p": oracle.MinPLogitsWarper,
        "typical_p": oracle.TypicalLogitsWarper,
    }
    sampling = Sampling(**{"temperature": temperature, "top_p": 1.0, **case})
    for seed, spread in enumerate((0.5, 2.0, 5.0)):
        logits = np.random.default_rng(seed).normal(0, spread, 5_000).astype(np.float32)
        scores = oracle.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(logits)[None])
        for name in makers:
            if name in case:
                scores = makers[name](case[name])(None, scores)
        expected = set(torch.isfinite(scores[0]).nonzero()[:, 0].tolist())
        kept = warper.keep(logits, sampling=sampling)
        assert kept is not None
        # Its sums are float32: a token on the border may fall to the other side.
        assert len(expected ^ set(kept.tolist())) <= len(expected) * 2e-3, (seed, spread)


def test_nothing_is_left_out_where_nothing_is_asked_for() -> None:
    logits = np.zeros(10, np.float32)
    assert warper.keep(logits, sampling=Sampling(top_p=1.0)) is None
    assert warper.keep(logits, sampling=Sampling(top_p=1.0, top_k=10)) is None


@given(
    logits=some_logits,
    temperature=temperatures,
    top_k=st.integers(0, 70),
    top_p=st.floats(0.001, 1),
    min_p=st.floats(0, 1),
    typical_p=st.floats(0.001, 1),
)
def test_something_always_stays(logits: Logits, **given: Any) -> None:
    kept = warper.keep(logits, sampling=Sampling(**given))
    if kept is not None:
        assert len(kept) > 0
        assert kept.tolist() == sorted(set(kept.tolist()))
        assert kept[-1] < len(logits)
