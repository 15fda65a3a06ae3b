"""Bounds at any time of looking: their price, their formula, and what must always hold."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import betaln

from fluvial.errors import InputError
from fluvial.gate import sequence, statistics


def mix_over_all_rates(trials: int, *, alpha: float) -> float:
    """The usual beta-binomial bound with no failures: mixed over all rates, not one side."""
    evidence = betaln(0.5, trials + 0.5) - betaln(0.5, 0.5)
    return 1 - math.exp((math.log(alpha) + evidence) / trials)


@pytest.mark.parametrize(("trials", "published", "ours"), [(300, 2.1, 1.25), (1000, 0.70, 0.38)])
def test_the_price_of_looking_at_any_time(trials: int, published: float, ours: float) -> None:
    assert 100 * mix_over_all_rates(trials, alpha=0.05) == pytest.approx(published, abs=0.02)
    found = 100 * sequence.bound_above(0, trials=trials, alpha=0.05)
    assert found == pytest.approx(ours, abs=0.006)
    assert 100 * statistics.bound_above(0, trials=trials, alpha=0.05) < found < published


@pytest.mark.parametrize(
    ("rate", "failed", "trials"), [(0.1, 0, 40), (0.3, 2, 25), (0.02, 3, 50), (0.9, 7, 9)]
)
def test_the_evidence_is_the_integral_of_its_definition(
    rate: float, failed: int, trials: int
) -> None:
    def bet(t: float) -> float:
        return t**failed * (1 - t) ** (trials - failed) / math.sqrt(t * (1 - t))

    top = quad(bet, 0, rate, epsabs=0, epsrel=1e-11, limit=400)[0]
    weight = quad(lambda t: 1 / math.sqrt(t * (1 - t)), 0, rate, epsrel=1e-11, limit=400)[0]
    against = rate**failed * (1 - rate) ** (trials - failed)
    found = sequence.log_evidence(rate, failed=failed, trials=trials)
    assert math.exp(found) == pytest.approx(top / weight / against, rel=1e-6)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.9])
def test_the_evidence_never_grows_in_expectation(rate: float) -> None:
    for trials in range(40):
        for failed in range(trials + 1):
            here = sequence.log_evidence(rate, failed=failed, trials=trials)
            more = sequence.log_evidence(rate, failed=failed + 1, trials=trials + 1)
            less = sequence.log_evidence(rate, failed=failed, trials=trials + 1)
            expected = rate * math.exp(more - here) + (1 - rate) * math.exp(less - here)
            assert expected == pytest.approx(1, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 1500), st.floats(0, 0.999), st.sampled_from([0.5, 0.05, 0.001]))
def test_rates_over_the_bound_and_no_others_are_ruled_out(
    trials: int, share: float, alpha: float
) -> None:
    failed = int(share * trials)
    bound = sequence.bound_above(failed, trials=trials, alpha=alpha)
    rates = np.concatenate([np.linspace(failed / trials, 1, 300), 1 - np.geomspace(1e-9, 0.5, 60)])
    for rate in rates[(rates > failed / trials) & (rates > 0) & (rates < 1)].tolist():
        if abs(rate - bound) < 1e-9:
            continue
        evidence = sequence.log_evidence(rate, failed=failed, trials=trials)
        assert (evidence >= -math.log(alpha)) == (rate > bound)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.floats(0, 1), st.sampled_from([0.3, 0.05, 0.001]))
def test_wider_than_the_fixed_bound_and_grows_with_failures(
    trials: int, share: float, alpha: float
) -> None:
    failed = round(share * trials)
    here = sequence.bound_above(failed, trials=trials, alpha=alpha)
    assert here >= statistics.bound_above(failed, trials=trials, alpha=alpha) - 1e-12
    assert sequence.bound_above(failed, trials=trials + 1, alpha=alpha) <= here + 1e-12
    assert here <= sequence.bound_above(failed + 1, trials=trials + 1, alpha=alpha) + 1e-12
    below = sequence.bound_below(failed, trials=trials, alpha=alpha)
    assert below <= statistics.bound_below(failed, trials=trials, alpha=alpha) + 1e-12
    assert below <= failed / trials <= here


def test_edges() -> None:
    assert sequence.bound_above(0, trials=0, alpha=0.05) == 1
    assert sequence.bound_below(0, trials=0, alpha=0.05) == 0
    assert sequence.bound_above(9, trials=9, alpha=0.05) == 1
    assert 0 < sequence.bound_above(0, trials=10**9, alpha=0.05) < 1e-8
    assert sequence.log_evidence(1e-300, failed=50, trials=100) == -math.inf
    with pytest.raises(InputError):
        sequence.bound_above(2, trials=1, alpha=0.05)
