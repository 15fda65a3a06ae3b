"""How much testing a bar needs: published sizes, and brute force over every size."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from fluvial.errors import InputError
from fluvial.gate.evidence import Calibration
from fluvial.gate.power import (
    Design,
    compute_power,
    count_allowed,
    count_further,
    find_fewest,
    find_first,
    find_trials,
    limit_failures,
)
from fluvial.gate.statistics import bound_above
from tests.gate.made import GOOD_JUDGE, make_evidence


@pytest.mark.parametrize(
    ("bar", "clean", "published"), [(0.05, 59, 183), (0.02, 149, 460), (0.01, 299, 925)]
)
def test_sizes_for_a_pass_and_for_ninety_percent_power(
    bar: float, clean: int, published: int
) -> None:
    """Published: sizes with 4 failures allowed. They are enough; ours are the fewest that are."""
    test = Design(limit=bar, alpha=0.05)
    assert find_fewest(test, failed=0) == clean
    assert count_allowed(test, trials=published) == 4
    assert compute_power(test, trials=published, share=bar / 4) >= 0.9
    found = find_trials(test, share=bar / 4, power=0.9)
    assert found is not None
    assert 0.98 * published <= found <= published
    assert count_allowed(test, trials=found) == 4
    smaller = (compute_power(test, trials=n, share=bar / 4) for n in range(1, found))
    assert max(smaller) < 0.9 <= compute_power(test, trials=found, share=bar / 4)


def test_fifty_eight_clean_trials_do_not_pass_a_bar_of_five_percent() -> None:
    test = Design(limit=0.05, alpha=0.05)
    assert count_allowed(test, trials=58) is None
    assert compute_power(test, trials=58, share=0) == 0


@settings(deadline=None)
@given(st.integers(1, 400), st.sampled_from([0.01, 0.1, 0.5]), st.floats(0.001, 0.999))
def test_power_is_the_probability_of_a_count_that_passes(
    trials: int, bar: float, share: float
) -> None:
    test = Design(limit=bar, alpha=0.05)
    passing = [k for k in range(trials + 1) if bound_above(k, trials=trials, alpha=0.05) <= bar]
    assert count_allowed(test, trials=trials) == max(passing, default=None)
    expected = sum(binom.pmf(k, trials, share) for k in passing)
    assert compute_power(test, trials=trials, share=share) == pytest.approx(expected, abs=1e-9)


def test_a_judge_that_errs_takes_power() -> None:
    exact = Design(limit=0.1, alpha=0.05)
    judged = Design(limit=0.1, alpha=0.05, judged=True, calibration=GOOD_JUDGE)
    unknown = Design(limit=0.1, alpha=0.05, judged=True)
    powers = [compute_power(test, trials=150, share=0.025) for test in (exact, judged, unknown)]
    assert powers[0] > powers[1] > powers[2] == 0
    assert find_fewest(unknown, failed=0) is None
    assert find_trials(unknown, share=0.01, power=0.9) is None


def test_no_size_gives_power_at_a_rate_over_the_bar() -> None:
    assert find_trials(Design(limit=0.05, alpha=0.05), share=0.06, power=0.9) is None


@pytest.mark.parametrize("share", [0.004, 0.007, 0.009])
def test_large_sizes_are_found_too(share: float) -> None:
    test = Design(limit=0.01, alpha=0.05)
    found = find_trials(test, share=share, power=0.9)
    assert found is not None
    assert compute_power(test, trials=found, share=share) >= 0.9
    assert compute_power(test, trials=int(0.97 * found), share=share) < 0.9


def test_no_size_gives_power_under_a_judge_that_cries_wolf() -> None:
    wolf = Calibration(positives=132, caught=122, negatives=127, false_alarms=40)
    test = Design(limit=0.05, alpha=0.03, judged=True, calibration=wolf)
    assert count_allowed(test, trials=200) == 2
    assert compute_power(test, trials=200, share=0.0125) < 0.001
    assert find_trials(test, share=0.0125, power=0.9) is None


def test_looking_at_any_time_takes_more_trials() -> None:
    fixed = find_fewest(Design(limit=0.01, alpha=0.05), failed=0)
    anytime = find_fewest(Design(limit=0.01, alpha=0.05, mode="anytime"), failed=0)
    assert (fixed, anytime) == (299, 377)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 400), st.integers(0, 5), st.sampled_from([0.02, 0.1, 0.4]))
def test_further_clean_trials_are_the_fewest_that_pass(
    clusters: int, failed: int, limit: float
) -> None:
    seen = make_evidence(max(clusters, failed), min(failed, clusters))
    further = count_further(seen, limit=limit, alpha=0.05, mode="fixed")
    assert further is not None
    total = seen.clusters + further
    assert bound_above(seen.failed, trials=total, alpha=0.05) <= limit
    if further > 1 or (further == 1 and seen.clusters):
        assert bound_above(seen.failed, trials=total - 1, alpha=0.05) > limit


def test_where_no_number_of_clean_trials_would_do() -> None:
    seen = make_evidence(100, judged=True)
    assert count_further(seen, limit=0.1, alpha=0.05, mode="fixed") is None


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(-5, 70))
def test_the_first_number(low: int, high: int, first: int) -> None:
    expected = next((n for n in range(low, high + 1) if n >= first), None)
    assert find_first(lambda n: n >= first, low=low, high=high) == expected


def test_limits() -> None:
    assert limit_failures(0.01, direction="at_most") == 0.01
    assert limit_failures(0.9, direction="at_least") == pytest.approx(0.1)
    for bar in (0, 1, -0.1, math.nan, math.inf, 2):
        with pytest.raises(InputError, match="bar"):
            limit_failures(bar, direction="at_most")
    with pytest.raises(InputError, match="share"):
        compute_power(Design(limit=0.1, alpha=0.05), trials=10, share=math.nan)
