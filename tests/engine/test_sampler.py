import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from fluvial.engine.sampler import Sampler, _nucleus, validate
from fluvial.errors import EngineError, InputError
from fluvial.types import Sampling

Logits = NDArray[np.float32]

# Few distinct values, so that ties are common; some far apart.
coarse = st.integers(-8, 8).map(lambda n: n / 2)
wild = st.floats(width=32, allow_nan=False, allow_infinity=False)
some_logits = arrays(np.float32, st.integers(1, 60), elements=coarse | wild)
temperatures = st.floats(0.01, 2.0) | st.sampled_from([5e-324, 1e-300, 1e-30, 1e-6])


def draw_all(logits: Logits, *, count: int = 2000, **options: object) -> list[int]:
    sampler = Sampler(Sampling(**options), len(logits))
    return [sampler.draw(logits) for _ in range(count)]


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
    return taken


def test_temperature_zero_takes_the_lowest_of_the_best():
    logits = np.array([0, 3, 1, 3], np.float32)
    assert set(draw_all(logits, count=20, temperature=0.0)) == {1}


def test_same_seed_same_tokens():
    logits = np.random.default_rng(0).normal(size=500).astype(np.float32)
    assert draw_all(logits, seed=5) == draw_all(logits, seed=5)
    assert draw_all(logits, seed=5) != draw_all(logits, seed=6)
    assert draw_all(logits, seed=-1) == draw_all(logits, seed=-1)
    assert draw_all(logits) != draw_all(logits)


def test_the_seeded_stream_is_pinned():
    """Numpy promises PCG64's stream; a change here would change every seeded answer."""
    logits = np.log(np.array([4, 3, 2, 1], np.float32))
    assert draw_all(logits, count=12, seed=42, temperature=1.0, top_p=1.0) == PINNED_WHOLE
    assert draw_all(logits, count=12, seed=42, temperature=1.0, top_p=0.85) == PINNED_NUCLEUS


PINNED_WHOLE = [2, 1, 2, 1, 0, 3, 2, 2, 0, 1, 0, 3]
PINNED_NUCLEUS = [1, 0, 2, 1, 0, 2, 1, 2, 0, 1, 0, 2]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_frequencies_are_the_probabilities(temperature: float, top_p: float):
    logits = np.array([1.0, 3.0, 2.0, -1.0, 2.5], np.float32)
    drawn = draw_all(logits, count=6_000, temperature=temperature, top_p=top_p, seed=1)
    expected = np.exp(logits / temperature)
    if top_p < 1:
        kept = naive_nucleus(logits, temperature=temperature, top_p=top_p)
        expected[[token for token in range(5) if token not in kept]] = 0
    found = np.bincount(drawn, minlength=5) / len(drawn)
    assert np.abs(found - expected / expected.sum()).max() < 0.025


def test_nucleus_is_the_smallest_set_that_suffices():
    logits = np.log(np.array([0.1, 0.2, 0.4, 0.3], np.float32))
    for top_p, kept in [
        (0.05, {2}),
        (0.39, {2}),
        (0.69, {2, 3}),
        (0.89, {1, 2, 3}),
        (0.95, {*range(4)}),
    ]:
        assert set(draw_all(logits, temperature=1.0, top_p=top_p, seed=0)) == kept


def test_ties_at_the_border_go_to_the_lower_id():
    logits = np.zeros(10, np.float32)
    assert set(draw_all(logits, temperature=1.0, top_p=0.3, seed=0)) == {0, 1, 2}


@given(logits=some_logits, temperature=temperatures, top_p=st.floats(0.01, 0.999))
def test_fast_nucleus_is_the_naive_one(logits: Logits, temperature: float, top_p: float):
    ids, weights = _nucleus(logits, temperature=temperature, top_p=top_p)
    assert ids.tolist() == sorted(naive_nucleus(logits, temperature=temperature, top_p=top_p))
    assert len(weights) == len(ids)


@pytest.mark.parametrize("spread", [0.0, 0.1, 1.0, 3.0, 10.0])
def test_fast_nucleus_is_the_naive_one_on_a_large_vocabulary(spread: float):
    noise = np.random.default_rng(3).normal(size=20_000)
    logits = np.round(noise * spread, 2).astype(np.float32)
    for top_p in (0.1, 0.9, 0.999):
        ids, _ = _nucleus(logits, temperature=0.8, top_p=top_p)
        assert ids.tolist() == sorted(naive_nucleus(logits, temperature=0.8, top_p=top_p))


@given(logits=some_logits, temperature=st.just(0.0) | temperatures, top_p=st.floats(0.01, 1.0))
def test_any_finite_logits_give_a_token(logits: Logits, temperature: float, top_p: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = Sampler(Sampling(temperature=temperature, top_p=top_p), len(logits)).draw(logits)
    assert 0 <= token < len(logits)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(bad: float, temperature: float):
    logits = np.zeros(8, np.float32)
    logits[3] = bad
    with pytest.raises(EngineError, match="finite") as caught:
        Sampler(Sampling(temperature=temperature), 8).draw(logits)
    assert caught.value.code == "bad_logits"


@pytest.mark.parametrize("shape", [(7,), (9,), (1, 8), ()])
def test_logits_of_another_shape_are_an_error(shape: tuple[int, ...]):
    with pytest.raises(EngineError, match="shape"):
        Sampler(Sampling(), 8).draw(np.zeros(shape, np.float32))


@pytest.mark.parametrize(
    "given_fields",
    [
        {"temperature": 0},
        {"temperature": 2.0},
        {"top_p": 1},
        {"top_p": 1e-9},
        {"seed": -(2**63)},
        {"seed": 2**63 - 1},
        {"max_tokens": 1},
        {"stop": ("a", "b" * 256, "\n", "é")},
    ],
)
def test_values_in_range_pass(given_fields: dict[str, object]):
    validate(Sampling(**given_fields))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "1"),
        ("temperature", True),
        ("temperature", None),
        ("top_p", 0),
        ("top_p", -1),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 1.5),
        ("seed", True),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("max_tokens", 2.0),
        ("max_tokens", 2**70),
        ("stop", ("",)),
        ("stop", ("a" * 257,)),
        ("stop", ("a", "b", "c", "d", "e")),
        ("stop", ("a", 3)),
        ("stop", "abc"),
    ],
)
def test_values_out_of_range_are_named(field: str, value: object):
    with pytest.raises(InputError, match=field) as caught:
        validate(Sampling(**{field: value}))
    assert caught.value.param == field
