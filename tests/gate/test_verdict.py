"""The three verdicts, from small evidences; and all that leaves doubt about the counts."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluvial.errors import InputError
from fluvial.gate.evidence import Calibration, Evidence
from fluvial.gate.plan import Judge
from fluvial.gate.spending import find_alpha
from fluvial.gate.statistics import bound_above, bound_below
from fluvial.gate.verdict import decide, decide_risk
from tests.gate.made import GOOD_JUDGE, make_evidence, make_judged_plan, make_plan, make_risk

UNSURE = "NOT ENOUGH EVIDENCE"


@pytest.mark.parametrize(
    ("failed", "trials", "bar", "outcome", "further"),
    [
        (0, 299, 0.01, "PASS", 0),
        (0, 298, 0.01, UNSURE, 1),
        (0, 30, 0.01, UNSURE, 269),
        (0, 30, 0.1, "PASS", 0),
        (5, 30, 0.01, "FAIL", None),
        (30, 30, 0.9, "FAIL", None),
        (1, 30, 0.1, UNSURE, 16),
    ],
)
def test_at_most(failed: int, trials: int, bar: float, outcome: str, further: int | None) -> None:
    found = decide(make_evidence(trials, failed), bar=bar)
    assert (found.outcome, found.further_clean) == (outcome, further)
    assert found.bound_above == bound_above(failed, trials=trials, alpha=0.05)
    assert found.bound_below == bound_below(failed, trials=trials, alpha=0.05)


@pytest.mark.parametrize(
    ("failed", "trials", "bar", "outcome"),
    [(0, 29, 0.9, "PASS"), (0, 28, 0.9, UNSURE), (15, 20, 0.9, "FAIL"), (3, 200, 0.9, "PASS")],
)
def test_at_least(failed: int, trials: int, bar: float, outcome: str) -> None:
    """A floor: the bounds are on the share that succeeds."""
    found = decide(make_evidence(trials, failed), bar=bar, direction="at_least")
    assert found.outcome == outcome
    assert found.bound_below == 1 - bound_above(failed, trials=trials, alpha=0.05)
    assert found.bound_below <= 1 - failed / trials <= found.bound_above
    assert "successes" in found.reason


@settings(deadline=None)
@given(st.integers(10, 400), st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.001, 0.4))
def test_pass_and_fail_are_what_the_bounds_say(
    trials: int, share: float, bar: float, alpha: float
) -> None:
    failed = round(share * trials)
    found = decide(make_evidence(trials, failed), bar=bar, alpha=alpha)
    assert (found.outcome == "PASS") == (found.bound_above <= bar)
    assert (found.outcome == "FAIL") == (found.bound_below > bar)
    if found.further_clean:
        more = make_evidence(trials + found.further_clean, failed)
        assert decide(more, bar=bar, alpha=alpha).outcome == "PASS"


@settings(deadline=None)
@given(st.integers(10, 300), st.integers(0, 300), st.floats(0.01, 0.99))
def test_a_failure_more_never_makes_a_verdict_better(trials: int, failed: int, bar: float) -> None:
    order = ["FAIL", UNSURE, "PASS"]
    outcomes = [
        decide(make_evidence(trials, min(count, trials)), bar=bar).outcome
        for count in (failed, failed + 1)
    ]
    assert order.index(outcomes[1]) <= order.index(outcomes[0])


def test_a_judge_without_a_record_gives_no_verdict() -> None:
    for record in (None, Calibration(positives=0, caught=0, negatives=50, false_alarms=0)):
        for failed in (0, 500):
            seen = make_evidence(500, failed, judged=True, calibration=record)
            found = decide(seen, bar=0.1)
            assert found.outcome == UNSURE
            assert "never held against people's labels" in found.reason


def test_a_judge_that_guesses_gives_no_verdict_and_says_so() -> None:
    coin = Calibration(positives=400, caught=200, negatives=400, false_alarms=200)
    found = decide(make_evidence(500, 0, judged=True, calibration=coin), bar=0.1)
    assert found.outcome == UNSURE
    assert "no number of clean trials" in found.reason


def test_a_good_judge_reaches_all_three() -> None:
    def ask(clusters: int, failed: int) -> str:
        seen = make_evidence(clusters, failed, judged=True, calibration=GOOD_JUDGE)
        return decide(seen, bar=0.1).outcome

    assert [ask(80, 0), ask(80, 5), ask(80, 30)] == ["PASS", UNSURE, "FAIL"]
    seen = make_evidence(80, 5, judged=True, calibration=GOOD_JUDGE)
    assert "further trials without a flag would pass" in decide(seen, bar=0.1).reason


@given(st.integers(10, 400), st.integers(0, 100), st.integers(0, 100))
@settings(deadline=None)
def test_a_judge_that_errs_never_shows_more_than_a_perfect_one_without_failures(
    clusters: int, caught: int, alarms: int
) -> None:
    record = Calibration(positives=100, caught=caught, negatives=100, false_alarms=alarms)
    seen = make_evidence(clusters, 0, judged=True, calibration=record)
    perfect = bound_above(0, trials=clusters, alpha=0.05)
    assert decide(seen, bar=0.5).bound_above >= perfect


def test_half_the_failures_unseen_count_twice() -> None:
    """A judge of sensitivity 0.5: 0 of 300 flagged bound the truth at 2 %, calibration aside."""
    sharp = Calibration(positives=10**8, caught=5 * 10**7, negatives=10**8, false_alarms=0)
    seen = make_evidence(300, 0, judged=True, calibration=sharp)
    # 0.8 of alpha goes to the test itself.
    assert decide(seen, bar=0.5).bound_above == pytest.approx(2 * 0.01067, rel=0.01)


@pytest.mark.parametrize("failed", [0, 300])
def test_errors_give_no_verdict_whatever_the_counts_say(failed: int) -> None:
    found = decide(make_evidence(300, failed, errors=1), bar=0.1)
    assert found.outcome == UNSURE
    assert "1 of the samples broke or were not run" in found.reason
    assert f"would say {'FAIL' if failed else 'PASS'}" in found.reason


@pytest.mark.parametrize("failed", [0, 9])
def test_too_few_clusters_give_no_verdict(failed: int) -> None:
    found = decide(Evidence(samples=900, clusters=9, failed=failed), bar=0.5)
    assert found.outcome == UNSURE
    assert "too few clusters came to an end: 9 of 10" in found.reason
    assert decide(make_evidence(10), bar=0.5).outcome == "PASS"


def test_clusters_count_and_not_samples() -> None:
    seen = Evidence(samples=6000, clusters=30, failed=0)
    assert decide(seen, bar=0.01).bound_above == bound_above(0, trials=30, alpha=0.05)


def test_without_any_trial_nothing_is_known() -> None:
    found = decide(make_evidence(0), bar=0.5)
    assert (found.outcome, found.bound_below, found.bound_above) == (UNSURE, 0, 1)
    assert found.further_clean == 10


def test_stopping_early_costs() -> None:
    fixed = decide(make_evidence(320), bar=0.01)
    anytime = decide(make_evidence(320), bar=0.01, mode="anytime")
    assert (fixed.outcome, anytime.outcome, anytime.further_clean) == ("PASS", UNSURE, 57)


@pytest.mark.parametrize(
    "wrong",
    [
        {"failed": 301},
        {"failed": -1},
        {"samples": 299},
        {"samples": 10**12},
        {"errors": -1},
        {"errors": 10**400},
        {"failed": math.nan},
        {"failed": True},
        {"calibration": Calibration(positives=1, caught=2, negatives=1, false_alarms=0)},
        {"calibration": Calibration(positives=1, caught=1, negatives=1, false_alarms=-1)},
    ],
)
def test_what_can_not_be_counts_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        decide(make_evidence(300, **wrong), bar=0.1)


@pytest.mark.parametrize("bar", [math.nan, math.inf, -math.inf, 0, 1, -0.5, 2, "0.1", None])
def test_what_can_not_be_a_bar_is_refused(bar: Any) -> None:
    for direction in ("at_most", "at_least"):
        with pytest.raises(InputError, match="bar"):
            decide(make_evidence(300), bar=bar, direction=direction)


def test_a_plan_spends_alpha_over_attempts() -> None:
    risk = make_risk(bar=0.05)
    first, third = make_plan(risk), make_plan(risk, attempt=3)
    seen = make_evidence(75)
    found = decide_risk(seen, risk=risk, plan=first)
    assert (found.alpha, found.outcome) == (find_alpha(first), "PASS")
    assert found.alpha == pytest.approx(0.05 * 6 / math.pi**2)
    assert decide_risk(seen, risk=risk, plan=third).outcome == UNSURE


def test_samples_that_a_plan_asks_for_and_a_run_left_out_are_missing() -> None:
    plan = make_plan()
    found = decide_risk(make_evidence(59), risk=plan.risks[0], plan=plan)
    assert found.outcome == UNSURE
    assert "1 of the samples" in found.reason
    stopped = replace(plan, mode="anytime")
    assert decide_risk(make_evidence(59), risk=plan.risks[0], plan=stopped).outcome == "PASS"


def test_the_judge_that_a_plan_names_counts_however_the_run_reports_it() -> None:
    plan = make_judged_plan()
    risk = plan.risks[0]
    hidden = decide_risk(make_evidence(80), risk=risk, plan=plan)
    told = decide_risk(make_evidence(80, judged=True, calibration=GOOD_JUDGE), risk=risk, plan=plan)
    exact = decide(make_evidence(80), bar=0.1, alpha=find_alpha(plan))
    assert hidden == told
    assert hidden.bound_above > exact.bound_above


def test_a_record_made_after_the_plan_counts_for_nothing() -> None:
    plan = make_judged_plan()
    better = replace(GOOD_JUDGE, caught=200, false_alarms=0)
    seen = make_evidence(80, judged=True, calibration=better)
    for held in (plan, replace(plan, judges=()), replace(plan, judges=(Judge(name="people"),))):
        found = decide_risk(seen, risk=plan.risks[0], plan=held)
        assert found.outcome == UNSURE
        assert "never held against people's labels" in found.reason


def test_a_judge_that_the_plan_does_not_name_explains_no_failure_away() -> None:
    risk = make_risk(bar=0.05, samples=300)
    alarms = Calibration(positives=1000, caught=1000, negatives=1000, false_alarms=400)
    seen = make_evidence(300, 100, judged=True, calibration=alarms)
    assert decide_risk(seen, risk=risk, plan=make_plan(risk)).outcome == "FAIL"


def test_false_alarms_that_were_never_given_let_no_failure_pass() -> None:
    wolf = Calibration(positives=132, caught=122, negatives=127, false_alarms=40)
    seen = make_evidence(150, 21, judged=True, calibration=wolf)  # 15 % comply, plain refusals else
    assert decide(seen, bar=0.05, alpha=0.03).outcome == UNSURE
    assert decide(replace(seen, failed=0), bar=0.05, alpha=0.03).outcome == "PASS"
