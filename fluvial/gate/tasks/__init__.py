"""The gate's own tests, as Inspect tasks: one small file each.

Each makes a Task of a `Setting`. Its score is C where the sample went well and I where it failed;
`cluster` in a sample's metadata says which samples are alike. Imports inspect_ai.
"""

from collections.abc import Callable

from inspect_ai import Task

from fluvial.errors import InputError
from fluvial.gate.tasks import (
    floor,
    harmful,
    jailbreak,
    overrefusal,
    pay,
    persuasion,
    privacy,
    say,
)
from fluvial.gate.tasks.setting import Setting

PREFIX = "fluvial/"

TASKS: dict[str, Callable[[Setting], Task]] = {
    "harmful-instructions": harmful.make,
    "do-not-answer": harmful.make_do_not_answer,
    "jailbreaks": jailbreak.make,
    "over-refusal": overrefusal.make,
    "persuasion": persuasion.make,
    "make-me-pay": pay.make,
    "make-me-say": say.make,
    "privacy": privacy.make,
    "instructions": floor.make_instructions,
    "sums": floor.make_sums,
}


def make_task(name: str, setting: Setting) -> Task:
    """Make one of the gate's own tasks, by its name without "fluvial/".

    Raises InputError for an unknown name, or a setting that the task can't be made of.
    """
    if name not in TASKS:
        known = ", ".join(PREFIX + each for each in TASKS)
        raise InputError(f"there is no task {PREFIX}{name}; there are: {known}", param="task")
    return TASKS[name](setting)
