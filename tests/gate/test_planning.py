"""Plans from templates: what they can show, what they cost, and judges without a record."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluvial.errors import InputError, NotFoundError, TooLargeError
from fluvial.gate import plan as plans
from fluvial.gate.plan import Judge
from fluvial.gate.planning import Occasion, Template, load_template, make_plan
from tests.gate.made import GOOD_JUDGE, make_risk

OCCASION = Occasion(
    model="tiny", lineage="line", attempt=2, seed=7, created_at=1_700_000_000.0, usd_per_hour=0.5
)
TEMPLATE = """
name = "small"
confidence = 0.9

[[risks]]
name = "harm"
task = "fluvial/harm"
bar = 0.1
samples = 60
judge = "people"

[[risks]]
name = "floor"
task = "fluvial/floor"
bar = 0.5
direction = "at_least"
samples = 40

[seconds_per_sample]
harm = 6

[assumed_share]
floor = 0.6
"""


def load(tmp_path: Path, text: str) -> Template:
    (tmp_path / "template.toml").write_text(text)
    return load_template(tmp_path / "template.toml")


def test_a_plan_of_a_template(tmp_path: Path) -> None:
    template = load(tmp_path, TEMPLATE)
    assert template.list_unknown_judges() == ["people"]
    record = Judge(name="people", calibration=GOOD_JUDGE)
    plan = make_plan(template, occasion=OCCASION, judges=[record])
    assert (plan.model, plan.lineage, plan.attempt, plan.seed) == ("tiny", "line", 2, 7)
    assert plan.judges == (record,)
    assert plans.read(plans.view(plan)) == plan
    harm, floor = plan.estimates
    assert (harm.risk, harm.seconds, harm.usd) == ("harm", 360, 0.05)
    assert (harm.assumed_share, floor.assumed_share) == (0.025, 0.6)
    assert (floor.seconds, floor.usd) == (None, None)
    assert 0 < harm.power < 1


def test_power_falls_with_attempts_and_without_a_record(tmp_path: Path) -> None:
    template = load(tmp_path, TEMPLATE)
    record = Judge(name="people", calibration=GOOD_JUDGE)

    def power(attempt: int, *judges: Judge) -> float:
        occasion = replace(OCCASION, attempt=attempt)
        return make_plan(template, occasion=occasion, judges=judges).estimates[0].power

    assert power(1, record) > power(3, record) > power(3) == 0


def test_samples_that_are_alike_show_less() -> None:
    risks = (
        make_risk("apart", samples=200),
        make_risk("alike", samples=200, clusters=80),
        make_risk("few", samples=200, clusters=9),
    )
    made = make_plan(Template(name="x", risks=risks), occasion=OCCASION)
    apart, alike, few = made.estimates
    assert apart.power > alike.power > few.power == 0
    assert few.allowed_failures is None


@pytest.mark.parametrize(
    ("old", "new", "blamed"),
    [
        ("harm = 6", "harn = 6", "harn"),
        ("harm = 6", "harm = -6", "seconds_per_sample"),
        ("floor = 0.6", "floor = 1.6", "assumed_share"),
        ("floor = 0.6", "floor = nan", "NaN|float"),
        ("bar = 0.1", "bar = 1", "bar"),
        ('name = "small"', 'name = "small"\nmodel = "tiny"', "model"),
        ("samples = 60", "", "samples"),
        ("[[risks]]", "[[riske]]", "ris"),
    ],
)
def test_wrong_templates_are_refused(tmp_path: Path, old: str, new: str, blamed: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(InputError, match=blamed):
        load(tmp_path, TEMPLATE.replace(old, new))


def test_templates_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_template(tmp_path / "none.toml")
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(TooLargeError):
        load_template(tmp_path / "large.toml")


def test_two_judges_of_one_name_are_refused(tmp_path: Path) -> None:
    template = load(tmp_path, TEMPLATE)
    twice = [Judge(name="people"), Judge(name="people")]
    with pytest.raises(InputError, match="two judges"):
        make_plan(template, occasion=OCCASION, judges=twice)


@pytest.mark.parametrize("change", [{"attempt": 0}, {"seed": -1}, {"lineage": ""}, {"model": "\n"}])
def test_an_occasion_that_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make_plan(load(tmp_path, TEMPLATE), occasion=replace(OCCASION, **change))


def test_the_default_template_makes_a_plan_with_floors_and_bars() -> None:
    template = load_template()
    records = [Judge(name=name, calibration=GOOD_JUDGE) for name in template.list_unknown_judges()]
    plan = make_plan(template, occasion=OCCASION, judges=records)
    assert {risk.direction for risk in plan.risks} == {"at_most", "at_least"}
    assert len(plan.estimates) == len(plan.risks) >= 6
