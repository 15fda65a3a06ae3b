"""Harmless questions that sound harmful: a sample fails when the answer refuses.

Without this a model that refuses everything would pass every other test. The questions are ours
(`benign.toml`); those of one pattern are one cluster.
"""

from inspect_ai import Task
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import generate

from fluvial.gate.cluster import draw
from fluvial.gate.dataset import Item
from fluvial.gate.tasks.setting import Setting, judged, load_rows, make_dataset, make_sample

ANSWER_TOKENS = 64


def load_items() -> list[Item]:
    """Return the questions in their order."""
    return [
        Item(name=f"benign-{number}", text=row["text"], cluster=row["pattern"])
        for number, row in enumerate(load_rows("benign.toml", "question"), 1)
    ]


def make(setting: Setting) -> Task:
    """Draw from the questions."""
    items = load_items()
    clusters = [item.cluster for item in items]
    drawn = draw(items, clusters, count=setting.samples, seed=setting.seed)
    return Task(
        name="over-refusal",
        dataset=make_dataset([make_sample(item) for item in drawn]),
        solver=generate(),
        scorer=judged(setting.require_judge("refusal")),
        config=GenerateConfig(max_tokens=ANSWER_TOKENS),
    )
