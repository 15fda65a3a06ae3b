"""Coverage by brute force: 10,000 tests drawn at a known rate; how often does a bound miss it?

A bound at 1 - alpha may miss in alpha of the draws. Allowed beyond that is what 10,000 draws can't
tell apart: four standard errors.
"""

import math
from functools import cache

import numpy as np
import pytest

from fluvial.gate import correction, sequence, statistics
from fluvial.gate.evidence import Calibration, Evidence
from fluvial.gate.spending import spend_alpha
from fluvial.gate.verdict import decide

DRAWS = 10_000
RATES = [0.001, 0.01, 0.05, 0.2, 0.5, 0.9]


@pytest.fixture(autouse=True)
def _remember(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute each bound once: 10,000 draws ask for few different ones."""
    for module in (statistics, sequence):
        for name in ("bound_above", "bound_below"):
            monkeypatch.setattr(module, name, cache(getattr(module, name)))


def allow(alpha: float) -> float:
    return alpha + 4 * math.sqrt(alpha * (1 - alpha) / DRAWS)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
@pytest.mark.parametrize("trials", [30, 299, 1000])
@pytest.mark.parametrize("rate", RATES)
def test_fixed_bounds(rate: float, trials: int, alpha: float) -> None:
    seen = np.random.default_rng(1).binomial(trials, rate, DRAWS)
    counts = range(trials + 1)
    above = np.array([statistics.bound_above(k, trials=trials, alpha=alpha) for k in counts])
    below = np.array([statistics.bound_below(k, trials=trials, alpha=alpha) for k in counts])
    assert np.mean(above[seen] < rate) <= allow(alpha)
    assert np.mean(below[seen] > rate) <= allow(alpha)


@pytest.mark.parametrize("rate", RATES)
def test_anytime_bounds_over_every_moment_of_a_test(rate: float) -> None:
    """The bound misses when the evidence against the truth is ever 1/alpha, at any of 400 looks."""
    alpha, horizon = 0.05, 400
    drawn = np.random.default_rng(2).random((DRAWS, horizon)) < rate
    seen = np.cumsum(drawn, axis=1)
    missed_above = np.zeros(DRAWS, bool)
    missed_below = np.zeros(DRAWS, bool)
    for trials in range(1, horizon + 1):
        counts = np.unique(seen[:, trials - 1])
        over, under = np.zeros(trials + 1, bool), np.zeros(trials + 1, bool)
        for k in counts.tolist():
            over[k] = reaches(rate, k, trials, alpha)
            under[k] = reaches(1 - rate, trials - k, trials, alpha)
        missed_above |= over[seen[:, trials - 1]]
        missed_below |= under[seen[:, trials - 1]]
    assert np.mean(missed_above) <= allow(alpha)
    assert np.mean(missed_below) <= allow(alpha)
    # Looking so often with the fixed bound would miss far more: the price is paid for something.
    if rate == 0.2:
        assert np.mean(peek(seen, rate, alpha)) > 2 * allow(alpha)


def reaches(rate: float, failed: int, trials: int, alpha: float) -> bool:
    return failed < trials * rate and (
        sequence.log_evidence(rate, failed=failed, trials=trials) >= -math.log(alpha)
    )


def peek(seen: np.ndarray, rate: float, alpha: float) -> np.ndarray:
    missed = np.zeros(len(seen), bool)
    for trials in range(1, seen.shape[1] + 1):
        counts = np.unique(seen[:, trials - 1])
        bounds = np.ones(trials + 1)
        bounds[counts] = [
            statistics.bound_above(k, trials=trials, alpha=alpha) for k in counts.tolist()
        ]
        missed |= bounds[seen[:, trials - 1]] < rate
    return missed


@pytest.mark.parametrize("looks", [(50, 100, 200, 400), tuple(range(10, 401, 10))])
def test_anytime_bounds_as_they_are_computed(looks: tuple[int, ...]) -> None:
    rate, alpha = 0.05, 0.05
    drawn = np.random.default_rng(3).random((DRAWS, max(looks))) < rate
    missed = np.zeros(DRAWS, bool)
    for trials in looks:
        seen = drawn[:, :trials].sum(axis=1)
        bounds = np.ones(trials + 1)
        for k in np.unique(seen).tolist():
            bounds[k] = sequence.bound_above(k, trials=trials, alpha=alpha)
        missed |= bounds[seen] < rate
    assert np.mean(missed) <= allow(alpha)


@pytest.mark.parametrize("mode", ["fixed", "anytime"])
@pytest.mark.parametrize(("positives", "negatives"), [(30, 30), (100, 300)])
@pytest.mark.parametrize(("caught", "alarms"), [(0.95, 0.01), (0.8, 0.1), (0.5, 0.0)])
@pytest.mark.parametrize("rate", [0.0, 0.01, 0.1, 0.5])
def test_bounds_where_a_judge_errs(
    rate: float, caught: float, alarms: float, positives: int, negatives: int, mode: str
) -> None:
    alpha, trials = 0.05, 200
    random = np.random.default_rng(4)
    flagged = random.binomial(trials, rate * caught + (1 - rate) * alarms, DRAWS)
    hits = random.binomial(positives, caught, DRAWS)
    wrong = random.binomial(negatives, alarms, DRAWS)

    @cache
    def bound(k: int, hit: int, bad: int) -> tuple[float, float]:
        seen = Evidence(
            samples=trials,
            clusters=trials,
            failed=k,
            judged=True,
            calibration=Calibration(
                positives=positives, caught=hit, negatives=negatives, false_alarms=bad
            ),
        )
        kind = "anytime" if mode == "anytime" else "fixed"
        return (
            correction.bound_below(seen, alpha=alpha, mode=kind),
            correction.bound_above(seen, alpha=alpha, mode=kind),
        )

    rows = zip(flagged.tolist(), hits.tolist(), wrong.tolist(), strict=True)
    bounds = np.array([bound(*row) for row in rows])
    assert np.mean(bounds[:, 0] > rate) <= allow(alpha)
    assert np.mean(bounds[:, 1] < rate) <= allow(alpha)


def test_clusters_of_several_samples_under_a_judge() -> None:
    """Clusters of 4 in which every failing one has one failing sample: the judge's hardest case."""
    alpha, clusters, size, rate, caught, alarms = 0.05, 60, 4, 0.15, 0.9, 0.03
    random = np.random.default_rng(5)
    failing = random.random((DRAWS, clusters)) < rate
    noise = random.random((DRAWS, clusters, size - 1)) < alarms
    first = random.random((DRAWS, clusters)) < np.where(failing, caught, alarms)
    flagged = (first | noise.any(axis=2)).sum(axis=1)
    record = Calibration(positives=150, caught=135, negatives=300, false_alarms=9)
    pairs: list[tuple[float, float]] = []
    for k in flagged.tolist():
        seen = Evidence(
            samples=clusters * size, clusters=clusters, failed=k, judged=True, calibration=record
        )
        pairs.append((bound(seen, alpha, "below"), bound(seen, alpha, "above")))
    bounds = np.array(pairs)
    assert np.mean(bounds[:, 0] > rate) <= allow(alpha)
    assert np.mean(bounds[:, 1] < rate) <= allow(alpha)


@cache
def bound(seen: Evidence, alpha: float, side: str) -> float:
    chosen = correction.bound_below if side == "below" else correction.bound_above
    return chosen(seen, alpha=alpha)


def test_twenty_attempts_at_the_bar_pass_no_more_often_than_alpha() -> None:
    """At the bar itself, a test run 20 times passes 28 % of the time; with alpha spent, under 5."""
    trials, bar, alpha, attempts = 300, 0.02, 0.05, 20
    seen = np.random.default_rng(6).binomial(trials, bar, (DRAWS, attempts))

    def share_of_passes(parts: list[float]) -> float:
        passed = np.zeros(DRAWS, bool)
        for index, part in enumerate(parts):
            limits = np.array([passes(k, trials, bar, part) for k in range(trials + 1)])
            passed |= limits[seen[:, index]]
        return float(np.mean(passed))

    assert share_of_passes([alpha] * attempts) > 0.25
    spent = [spend_alpha(alpha, attempt=number + 1) for number in range(attempts)]
    assert share_of_passes(spent) <= allow(alpha)


@cache
def passes(failed: int, trials: int, bar: float, alpha: float) -> bool:
    seen = Evidence(samples=trials, clusters=trials, failed=failed)
    return decide(seen, bar=bar, alpha=alpha).outcome == "PASS"


def test_wrong_verdicts_are_as_rare_as_they_say() -> None:
    """A rate just over the bar passes, and one at the bar fails, in alpha of the draws at most."""
    trials, bar, alpha = 200, 0.05, 0.05
    random = np.random.default_rng(7)

    @cache
    def outcome(failed: int) -> str:
        seen = Evidence(samples=trials, clusters=trials, failed=failed)
        return decide(seen, bar=bar, alpha=alpha).outcome

    over = [outcome(k) for k in random.binomial(trials, bar * 1.001, DRAWS).tolist()]
    at = [outcome(k) for k in random.binomial(trials, bar, DRAWS).tolist()]
    assert over.count("PASS") / DRAWS <= allow(alpha)
    assert at.count("FAIL") / DRAWS <= allow(alpha)
    assert at.count("NOT ENOUGH EVIDENCE") / DRAWS > 0.8
