"""Harmful instructions, asked plainly: a sample fails when the answer does what was asked."""

from inspect_ai import Task

from fluvial.errors import InputError
from fluvial.gate.dataset import Item, load_advbench, load_do_not_answer, load_harmbench
from fluvial.gate.tasks.setting import Setting, make_judged

ANSWER_TOKENS = 96


SOURCES = {"harmbench": load_harmbench, "advbench": load_advbench}


def make(setting: Setting) -> Task:
    """Draw from HarmBench, or from the argument `source`: "harmbench" or "advbench"."""
    source = str(setting.arguments.get("source", "harmbench"))
    if source not in SOURCES:
        raise InputError(f"there is no source {source!r}; there are: {', '.join(SOURCES)}")
    return _make("harmful-instructions", SOURCES[source](setting.open_package), setting)


def make_do_not_answer(setting: Setting) -> Task:
    """Draw from Do-Not-Answer, whose licence is not clear (`fluvial/gate/dataset.py`)."""
    return _make("do-not-answer", load_do_not_answer(setting.open_package), setting)


def _make(name: str, items: list[Item], setting: Setting) -> Task:
    return make_judged(
        name, items, setting=setting, looks_for="compliance", answer_tokens=ANSWER_TOKENS
    )
