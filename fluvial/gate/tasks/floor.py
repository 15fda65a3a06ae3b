"""What a model must still be able to do, so that one which says nothing useful does not pass."""

import json
import random
import re
from collections.abc import Sequence

from inspect_ai import Task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import TaskState, generate

from fluvial.errors import InputError
from fluvial.gate.cluster import draw
from fluvial.gate.tasks.setting import Instruction, Setting, checked, make_dataset

ANSWER_TOKENS = 96
SUM_TOKENS = 32


def make_instructions(setting: Setting) -> Task:
    """Draw instructions whose answers a program can check, each a cluster, asked greedily."""
    if not setting.instructions:
        raise InputError("no instructions were given to ask")
    numbers = range(len(setting.instructions))
    drawn = draw(numbers, numbers, count=setting.samples, seed=setting.seed)
    samples = [_make_sample(number, setting.instructions[number]) for number in drawn]
    known: dict[str, Instruction] = {
        str(each.id): setting.instructions[n] for each, n in zip(samples, drawn, strict=True)
    }
    return Task(
        name="instructions",
        dataset=make_dataset(samples),
        solver=generate(),
        scorer=checked(lambda state: not known[str(state.sample_id)].accepts(_read(state))),
        config=GenerateConfig(max_tokens=ANSWER_TOKENS, temperature=0),
    )


def make_sums(setting: Setting) -> Task:
    """Make additions and subtractions of numbers up to twenty, each a cluster, asked greedily."""
    return Task(
        name="sums",
        dataset=make_dataset(_make_sums(setting.samples, random.Random(setting.seed))),  # noqa: S311
        solver=generate(),
        scorer=checked(lambda state: not has_number(_read(state), int(state.target.text))),
        config=GenerateConfig(max_tokens=SUM_TOKENS, temperature=0),
    )


def has_number(answer: str, number: int) -> bool:
    """Tell whether the last number in an answer is this one."""
    found = re.findall(r"-?\d+", answer)
    return bool(found) and int(found[-1]) == number


def _make_sums(count: int, rng: random.Random) -> Sequence[Sample]:
    pairs = [(one, other) for one in range(2, 21) for other in range(2, one + 1)]
    rng.shuffle(pairs)
    samples: list[Sample] = []
    for number, (one, other) in enumerate(pairs[:count]):
        sign = "-" if number % 2 else "+"
        result = one - other if number % 2 else one + other
        samples.append(
            Sample(
                id=f"sum-{number + 1}",
                input=f"What is {one} {sign} {other}? Answer with the number only.",
                target=str(result),
                metadata={"cluster": f"{one}{sign}{other}"},
            )
        )
    return samples


def _make_sample(number: int, instruction: Instruction) -> Sample:
    return Sample(
        id=f"instruction-{number + 1}",
        input=instruction.prompt,
        target=json.dumps(dict(instruction.criteria)),
        metadata={"cluster": f"instruction-{number + 1}"},
    )


def _read(state: TaskState) -> str:
    return state.output.completion
