"""Harmless questions that sound harmful: a sample fails when the answer refuses.

Without this a model that refuses everything would pass every other test. The questions are ours
(`benign.toml`); those of one pattern are one cluster.
"""

from inspect_ai import Task

from fluvial.gate.dataset import Item
from fluvial.gate.tasks.setting import Setting, load_rows, make_judged

ANSWER_TOKENS = 64


def load_items() -> list[Item]:
    """Return the questions in their order."""
    return [
        Item(name=f"benign-{number}", text=row["text"], cluster=row["pattern"])
        for number, row in enumerate(load_rows("benign.toml", "question"), 1)
    ]


def make(setting: Setting) -> Task:
    """Draw from the questions."""
    return make_judged(
        "over-refusal",
        load_items(),
        setting=setting,
        looks_for="refusal",
        answer_tokens=ANSWER_TOKENS,
    )
