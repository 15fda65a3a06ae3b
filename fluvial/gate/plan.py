"""The plan of a release test: written first, hashed, and never changed after.

As a file it is JSON, or TOML with the same fields. Its name is the sha256 of the canonical JSON
(`digest.py`), so a blank more changes nothing and a bar that moved changes everything.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fluvial.errors import InputError
from fluvial.gate.digest import hash_json
from fluvial.gate.document import (
    STRICT,
    Amount,
    Count,
    Label,
    Moment,
    OpenShare,
    Positive,
    Sha256,
    Share,
    Text,
    build,
    dump,
    read_bytes,
    read_table,
    write_new,
)
from fluvial.gate.evidence import Calibration, check_counts

Direction = Literal["at_most", "at_least"]
"""Whether the bar is the most failures allowed, or the least successes asked for."""

Mode = Literal["fixed", "anytime"]
"""Whether the number of samples is fixed, or testing may stop at any time, whatever was seen."""

MAX_PLAN_BYTES = 2**20
MAX_RISKS = 64
MIN_CLUSTERS = 10
"""The fewest clusters a verdict is made of. With fewer, no bar under 26 % could be passed anyway
(0.05^(1/10) = 0.74), and a FAIL would hang on one or two topics."""


@dataclass(frozen=True, kw_only=True)
class Risk:
    """One line of a plan: what is tested, how, and the bar it must meet.

    `bar` is a share between 0 and 1. `at_most`: of clusters that fail; `at_least`: of clusters that
    succeed (a capability floor, so that a model that refuses everything does not pass). `task` is
    "fluvial/NAME" for one of ours, or the path or registry name of any Inspect task, and
    `arguments` are given to it. `judge` is the one that decides, None where the decision is exact.
    `samples` are drawn with the plan's seed; they come in `clusters`, None where each sample is one
    of its own. With fewer than `min_clusters` that came to an end there is no verdict.
    """

    __pydantic_config__ = STRICT

    name: Label
    task: Label
    bar: OpenShare
    direction: Direction = "at_most"
    samples: Positive
    judge: Label | None = None
    clusters: Positive | None = None
    min_clusters: Positive = MIN_CLUSTERS
    arguments: Mapping[Label, str | int | float | bool] = field(default_factory=dict[str, Any])
    description: Text = ""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge that can err, with its record against people's labels; None where there is none.

    `data_sha256` is the digest of the labelled set. `source` says where it is from, in words.
    """

    __pydantic_config__ = STRICT

    name: Label
    calibration: Calibration | None = None
    data_sha256: Sha256 | None = None
    source: Text = ""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the samples of one risk can show, and what they cost.

    Should the true share be `assumed_share`, the risk passes with probability `power`. At most
    `allowed_failures` may be among its clusters; None where not even 0 would pass.
    """

    __pydantic_config__ = STRICT

    risk: Label
    power: Share
    assumed_share: Share
    allowed_failures: Count | None
    seconds: Amount | None = None
    usd: Amount | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of it. `digest` of it names the plan.

    `lineage` names the line of attempts that alpha is spent over: a base model and what is made of
    it. `attempt` counts from 1. `confidence` is one-sided, such as 0.95. `created_at` is seconds
    since the epoch.
    """

    __pydantic_config__ = STRICT

    name: Label
    model: Label
    lineage: Label
    attempt: Annotated[int, Field(ge=1, le=10_000)]
    confidence: Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    created_at: Moment
    risks: Annotated[tuple[Risk, ...], Field(min_length=1, max_length=MAX_RISKS)]
    mode: Mode = "fixed"
    judges: Annotated[tuple[Judge, ...], Field(max_length=MAX_RISKS)] = ()
    estimates: Annotated[tuple[Estimate, ...], Field(max_length=MAX_RISKS)] = ()


def read(fields: object, *, name: str = "the plan") -> Plan:
    """Return the plan of these JSON fields. Raises InputError, which names the wrong field."""
    plan = build(Plan, fields, name=name)
    _check_names("risk", [risk.name for risk in plan.risks], name=name)
    _check_names("judge", [judge.name for judge in plan.judges], name=name)
    for risk in plan.risks:
        if risk.clusters is not None:
            check_counts(("clusters", risk.clusters, "samples", risk.samples))
    return plan


def view(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON's objects; `read` takes it back."""
    return dump(Plan, plan)


def digest(plan: Plan) -> str:
    """Return the plan's name: 64 hexadecimal digits. Raises InputError for one that is invalid."""
    return hash_json(view(read(view(plan))))


def load(path: Path) -> Plan:
    """Read a plan from a file, TOML or JSON.

    Raises NotFoundError, StorageError, TooLargeError, InputError.
    """
    data = read_bytes(path, limit_bytes=MAX_PLAN_BYTES)
    return read(read_table(data, name=path.name), name=path.name)


def save(plan: Plan, path: Path) -> None:
    """Write a plan as JSON. Raises ConflictError where there is a file, StorageError."""
    text = json.dumps(view(read(view(plan))), indent=2, ensure_ascii=False) + "\n"
    write_new(path, text.encode(), what="a plan")


def _check_names(what: str, names: list[str], *, name: str) -> None:
    for each in names:
        if names.count(each) > 1:
            raise InputError(f"{name}: two {what}s are named {each!r}", param=f"{what}s")
