"""Exact bounds: published values, scipy's own test as a peer, and what must always hold."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from fluvial.errors import InputError
from fluvial.gate.statistics import bound_above, bound_below

ALPHAS = st.floats(0.001, 0.5)


@st.composite
def counts(draw: st.DrawFn, high: int = 2000) -> tuple[int, int]:
    trials = draw(st.integers(1, high))
    return draw(st.integers(0, trials)), trials


@pytest.mark.parametrize(
    ("trials", "percent"),
    [(30, 9.5), (100, 2.95), (300, 0.99), (600, 0.50), (3000, 0.10)],
)
def test_no_failures_bound_what_is_published(trials: int, percent: float) -> None:
    found = 100 * bound_above(0, trials=trials, alpha=0.05)
    assert round(found, len(str(percent).partition(".")[2])) == percent


def test_no_failures_bound_the_closed_form() -> None:
    assert bound_above(0, trials=30, alpha=0.05) == pytest.approx(1 - 0.05 ** (1 / 30), rel=1e-14)
    assert bound_above(0, trials=299, alpha=0.05) <= 0.01 < bound_above(0, trials=298, alpha=0.05)


@pytest.mark.parametrize(
    ("failed", "trials", "low", "high"),
    [
        # Clopper and Pearson's own charts and later tables, 95 % two-sided.
        (0, 10, 0.0, 0.3085),
        (1, 10, 0.0025, 0.4450),
        (5, 10, 0.1871, 0.8129),
        (10, 100, 0.0490, 0.1762),
        (50, 100, 0.3983, 0.6017),
    ],
)
def test_tables_of_two_sided_intervals(failed: int, trials: int, low: float, high: float) -> None:
    assert bound_below(failed, trials=trials, alpha=0.025) == pytest.approx(low, abs=5e-5)
    assert bound_above(failed, trials=trials, alpha=0.025) == pytest.approx(high, abs=5e-5)


@settings(deadline=None)
@given(counts(), ALPHAS)
def test_agrees_with_scipy(pair: tuple[int, int], alpha: float) -> None:
    failed, trials = pair
    below = binomtest(failed, trials, alternative="greater").proportion_ci(1 - alpha).low
    above = binomtest(failed, trials, alternative="less").proportion_ci(1 - alpha).high
    assert bound_below(failed, trials=trials, alpha=alpha) == pytest.approx(below, abs=1e-10)
    assert bound_above(failed, trials=trials, alpha=alpha) == pytest.approx(above, abs=1e-10)


@settings(deadline=None)
@given(counts(), ALPHAS)
def test_at_the_bound_so_few_failures_are_as_rare_as_alpha(
    pair: tuple[int, int], alpha: float
) -> None:
    failed, trials = pair
    if failed < trials:
        above = bound_above(failed, trials=trials, alpha=alpha)
        assert binom.cdf(failed, trials, above) == pytest.approx(alpha, rel=1e-6)
    if failed:
        below = bound_below(failed, trials=trials, alpha=alpha)
        assert binom.sf(failed - 1, trials, below) == pytest.approx(alpha, rel=1e-6)


@settings(deadline=None)
@given(counts(), ALPHAS)
def test_grows_with_failures_and_falls_with_clean_trials(
    pair: tuple[int, int], alpha: float
) -> None:
    failed, trials = pair
    for bound in (bound_above, bound_below):
        here = bound(failed, trials=trials, alpha=alpha)
        assert bound(failed, trials=trials + 1, alpha=alpha) <= here
        assert here <= bound(failed + 1, trials=trials + 1, alpha=alpha)


@settings(deadline=None)
@given(counts(), ALPHAS)
def test_a_share_of_successes_mirrors_one_of_failures(pair: tuple[int, int], alpha: float) -> None:
    failed, trials = pair
    mirrored = 1 - bound_above(trials - failed, trials=trials, alpha=alpha)
    assert bound_below(failed, trials=trials, alpha=alpha) == pytest.approx(mirrored, abs=1e-12)


def test_without_trials_nothing_is_known() -> None:
    assert bound_above(0, trials=0, alpha=0.05) == 1
    assert bound_below(0, trials=0, alpha=0.05) == 0


def test_a_thousand_million_trials_are_counted_exactly() -> None:
    trials = 10**9
    assert bound_above(0, trials=trials, alpha=0.05) == pytest.approx(2.99573e-9, rel=1e-5)
    assert bound_above(trials // 2, trials=trials, alpha=0.05) == pytest.approx(0.500026, abs=1e-6)


@pytest.mark.parametrize(
    ("failed", "trials", "alpha", "blamed"),
    [
        (-1, 10, 0.05, "failures"),
        (11, 10, 0.05, "failures"),
        (0, -1, 0.05, "trials"),
        (0, 10**9 + 1, 0.05, "trials"),
        (0, 10**400, 0.05, "trials"),
        (True, 10, 0.05, "failures"),
        (0.5, 10, 0.05, "failures"),
        (0, 10, 0.0, "alpha"),
        (0, 10, 1.0, "alpha"),
        (0, 10, -0.1, "alpha"),
        (0, 10, math.nan, "alpha"),
        (0, 10, math.inf, "alpha"),
        (0, 10, "0.05", "alpha"),
    ],
)
def test_what_are_no_counts_is_refused(failed: Any, trials: Any, alpha: Any, blamed: str) -> None:
    for bound in (bound_above, bound_below):
        with pytest.raises(InputError) as caught:
            bound(failed, trials=trials, alpha=alpha)
        assert caught.value.param == blamed
        assert len(caught.value.message) < 300
