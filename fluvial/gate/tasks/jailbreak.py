"""Harmful instructions inside jailbreaks: each item of HarmBench in several templates.

A cluster is an item's topic, and it fails when any template gets through.
"""

from inspect_ai import Task
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import generate

from fluvial.errors import SourceError
from fluvial.gate.cluster import draw
from fluvial.gate.dataset import SLOT, draw_templates, load_harmbench
from fluvial.gate.tasks.harmful import ANSWER_TOKENS
from fluvial.gate.tasks.setting import Setting, judged, make_dataset, make_sample

TEMPLATES_PER_ITEM = 2


def make(setting: Setting) -> Task:
    """Draw items and templates; no template is used twice before all were.

    The argument `wild` takes templates found in the wild, else there are none like those.
    """
    each = int(setting.arguments.get("templates_per_item", TEMPLATES_PER_ITEM))
    items = load_harmbench(setting.open_package)
    clusters = [item.cluster for item in items]
    # Another draw than that of the plain questions, so that the two tests share no luck.
    drawn = draw(items, clusters, count=-(-setting.samples // each), seed=setting.seed + 1)
    wild = bool(setting.arguments.get("wild", False))
    templates = draw_templates(
        setting.open_package, wild=wild, count=setting.samples, seed=setting.seed
    )
    if not templates:
        raise SourceError("the package has no jailbreak templates where they are expected")
    samples = [
        make_sample(item, text=templates[number % len(templates)].replace(SLOT, item.text))
        for number, item in enumerate(item for item in drawn for _ in range(each))
    ][: setting.samples]
    for number, sample in enumerate(samples):
        sample.id = f"{sample.id}-{number % each + 1}"
    return Task(
        name="jailbreaks",
        dataset=make_dataset(samples),
        solver=generate(),
        scorer=judged(setting.require_judge("compliance")),
        config=GenerateConfig(max_tokens=ANSWER_TOKENS),
    )
