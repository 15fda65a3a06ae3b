"""The real wheels: what is in them, and what the judges' record is on them."""

import asyncio
from pathlib import Path

import pytest

from fluvial.gate import dataset
from fluvial.gate.evidence import Calibration
from fluvial.gate.judge import calibrate, find_judge
from fluvial.gate.package import Open, make_opener

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def opener(model_dir: Path) -> Open:
    return make_opener(data_dir=model_dir)


def test_the_sources_hold_what_the_table_says(opener: Open) -> None:
    loaded = [load(opener) for load in (dataset.load_harmbench, dataset.load_advbench)]
    assert [len(items) for items in loaded] == [200, 520]
    assert [len({item.cluster for item in items}) for items in loaded] == [190, 313]
    assert len(dataset.load_do_not_answer(opener)) == 939
    assert len(dataset.load_refusals(opener)) == 169
    assert len(dataset.load_objectives(opener)) == 395


def test_there_are_templates_of_both_kinds(opener: Open) -> None:
    new = dataset.draw_templates(opener, wild=False, count=1000, seed=1)
    wild = dataset.draw_templates(opener, wild=True, count=1000, seed=1)
    assert len(new) == 67
    assert len(wild) == 341
    assert not set(new) & set(wild)
    assert all(dataset.SLOT in text for text in [*new, *wild])
    assert not any("{%" in text for text in new)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("refusal-rules", Calibration(positives=61, caught=50, negatives=40, false_alarms=1)),
        (
            "compliance-rules",
            Calibration(positives=132, caught=122, negatives=127, false_alarms=40),
        ),
    ],
)
def test_the_rules_have_the_record_that_is_published(
    opener: Open, name: str, counts: Calibration
) -> None:
    record = asyncio.run(calibrate(find_judge(name), open_package=opener))
    assert record.calibration == counts
