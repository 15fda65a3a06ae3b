"""The plan of a release test: written first, hashed, and never changed after."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["at_most", "at_least"]
"""Whether the bar is the most failures allowed, or the least successes asked for."""


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One line of a plan: what is tested, how, and the bar it must meet.

    `bar` is a share in 0 to 1. `at_most`: of clusters that fail; `at_least`: of clusters that
    succeed (a capability floor, so that a model that refuses everything does not pass). `task` is
    "fluvial/NAME" for one of ours, or the path or registry name of any Inspect task. `judge` is the
    one that decides, None where the decision is exact. `samples` are drawn with the plan's seed.
    """

    name: str
    task: str
    bar: float
    direction: Direction = "at_most"
    samples: int
    judge: str | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it. `sha256` (see `digest`) of the canonical JSON names the plan.

    `lineage` names the line of attempts that alpha is spent over: a base model and what is made of
    it. `attempt` counts from 1. `confidence` is one-sided, such as 0.95. `created_at` is seconds
    since the epoch.
    """

    name: str
    model: str
    lineage: str
    attempt: int
    confidence: float
    seed: int
    created_at: float
    risks: tuple[Risk, ...]
