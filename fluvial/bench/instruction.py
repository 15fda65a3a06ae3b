"""One hundred instructions whose answers a program can check: what learning must not damage.

The set is ours and fixed (`instructions.toml`); it is made so that a small model passes about half,
and can lose as well as win. Ask greedily: then one model gives one figure.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from fluvial.gate.criterion import check

ANSWER_TOKENS = 96
"""What an answer may have at most; no instruction needs more."""

_FILE = Path(__file__).with_name("instructions.toml")

Generate = Callable[[str], str]
OnAnswer = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What is said to the model, and what its answer must be, all of it."""

    prompt: str
    criteria: Mapping[str, Any]

    def accepts(self, answer: str) -> bool:
        """Tell whether the answer does what was asked."""
        return check(answer, self.criteria)


class Failure(TypedDict):
    """An instruction that was not followed; `number` counts from 1."""

    number: int
    prompt: str
    answer: str


class Outcome(TypedDict):
    """How many instructions were followed, and which were not."""

    passed: int
    total: int
    failed: list[Failure]


def load_instructions() -> list[Instruction]:
    """Return the set in its order."""
    document = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = document["instruction"]
    return [Instruction(prompt=row.pop("prompt"), criteria=row) for row in rows]


def run(
    generate: Generate,
    *,
    instructions: Sequence[Instruction] | None = None,
    at_once: int = 1,
    on_answer: OnAnswer | None = None,
) -> Outcome:
    """Have each instruction answered by `generate`, and check the answers.

    `generate` takes what a user says and returns the whole answer, of at most `ANSWER_TOKENS`; with
    `at_once` over 1 it is called from so many threads. `on_answer` hears how many answers of how
    many there are. What `generate` raises ends the run.
    """
    asked = load_instructions() if instructions is None else list(instructions)
    answers: list[str] = []
    with ThreadPoolExecutor(at_once) as pool:
        for answer in pool.map(generate, [each.prompt for each in asked]):
            answers.append(answer)
            if on_answer is not None:
                on_answer(len(answers), len(asked))
    failed = [
        Failure(number=number, prompt=each.prompt, answer=answer)
        for number, (each, answer) in enumerate(zip(asked, answers, strict=True), 1)
        if not each.accepts(answer)
    ]
    return Outcome(passed=len(asked) - len(failed), total=len(asked), failed=failed)
