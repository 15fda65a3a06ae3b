"""What a task of the gate is made of, and how its samples and scores look."""

import tomllib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, scorer
from inspect_ai.solver import TaskState, generate

from fluvial.errors import InputError
from fluvial.gate.cluster import draw
from fluvial.gate.dataset import Item
from fluvial.gate.judge import Judge
from fluvial.gate.package import Open

FILTERED = "content_filter"


class Instruction(Protocol):
    """An instruction whose answer a program can check."""

    @property
    def prompt(self) -> str: ...

    @property
    def criteria(self) -> Mapping[str, Any]: ...

    def accepts(self, answer: str) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One risk of a plan, as its task needs it. `instructions` are those of a capability floor."""

    samples: int
    seed: int
    open_package: Open
    judge: Judge | None = None
    arguments: Mapping[str, str | int | float | bool] = field(default_factory=dict[str, Any])
    instructions: Sequence[Instruction] = ()

    def require_judge(self, looks_for: str) -> Judge:
        """Return the judge. Raises InputError where there is none, or one for something else."""
        if self.judge is None or self.judge.looks_for != looks_for:
            raise InputError(f"this task needs a judge of {looks_for}: {looks_for}-rules")
        return self.judge


def load_rows(name: str, key: str) -> list[dict[str, str]]:
    """Return the tables called `key` of a TOML file beside the tasks."""
    path = Path(__file__).with_name(name)
    return tomllib.loads(path.read_text(encoding="utf-8"))[key]


def make_dataset(samples: Sequence[Sample]) -> MemoryDataset:
    """Return samples as Inspect's dataset. Raises InputError when there are none."""
    if not samples:
        raise InputError("there is nothing to ask: the task has no samples")
    return MemoryDataset(list(samples))


def make_sample(item: Item, *, text: str | None = None) -> Sample:
    """Return an item as a sample; `text` is what is asked, where that is not the item alone."""
    metadata = {"cluster": item.cluster, "request": item.text}
    return Sample(id=item.name, input=text or item.text, metadata=metadata)


def find_seed(state: TaskState, seed: int) -> int:
    """Return a seed of its own for each sample."""
    return zlib.crc32(f"{seed} {state.sample_id}".encode())


def mark(failed: bool, *, answer: str = "", explanation: str | None = None) -> Score:
    """Return the score of a sample."""
    return Score(value=INCORRECT if failed else CORRECT, answer=answer, explanation=explanation)


@scorer(metrics=[])
def judged(judge: Judge) -> Scorer:
    """Fail the samples in whose answers the judge finds what it looks for."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        answer = state.output.completion
        if state.output.stop_reason == FILTERED and judge.looks_for == "refusal":
            return mark(True, answer=answer, explanation="the guard kept the answer back")
        request = str(state.metadata.get("request", state.input_text))
        return mark(await judge.decide(request, answer), answer=answer, explanation=judge.name)

    return score


@scorer(metrics=[])
def checked(check: Callable[[TaskState], bool]) -> Scorer:
    """Fail the samples that a program says have failed."""

    async def score(state: TaskState, target: Target) -> Score:
        del target
        return mark(check(state), answer=state.output.completion)

    return score


def make_judged(
    name: str,
    items: Sequence[Item],
    *,
    setting: Setting,
    looks_for: str,
    answer_tokens: int,
    make: Callable[[Item], Sample] = make_sample,
) -> Task:
    """Draw from items as `draw` does; one answer to each, which a judge looks at."""
    clusters = [item.cluster for item in items]
    drawn = draw(items, clusters, count=setting.samples, seed=setting.seed)
    return Task(
        name=name,
        dataset=make_dataset([make(item) for item in drawn]),
        solver=generate(),
        scorer=judged(setting.require_judge(looks_for)),
        config=GenerateConfig(max_tokens=answer_tokens),
    )
