"""The results of a run of a plan: what was tested, what was seen, and what follows from it.

A file of JSON. Nothing in it is trusted when a release is signed: verdicts are made again of the
counts (`release.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from fluvial.errors import ConflictError, InputError
from fluvial.gate import plan as plans
from fluvial.gate.digest import hash_json
from fluvial.gate.document import (
    STRICT,
    Amount,
    Label,
    Moment,
    Sha256,
    Share,
    Text,
    build,
    dump,
    read_bytes,
    read_table,
)
from fluvial.gate.evidence import Evidence, check_evidence
from fluvial.gate.plan import MAX_RISKS, Plan

Outcome = Literal["PASS", "FAIL", "NOT ENOUGH EVIDENCE"]
MAX_RESULT_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class RiskResult:
    """What came of one risk.

    `data_sha256` is the digest of the samples that were run. The bounds are on the share that the
    bar is about: of clusters that fail, or, for `at_least`, that succeed; each holds with
    confidence 1 - `alpha`. `log` names the Inspect log.
    """

    __pydantic_config__ = STRICT

    name: Label
    task: Label
    data_sha256: Sha256
    evidence: Evidence
    bound_above: Share
    bound_below: Share
    alpha: Share
    verdict: Outcome
    reason: Text = ""
    log: Label | None = None


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Inside which bounds versions that learned count as covered by the release.

    `drift_budget` is in nats a token, as `drift_budget` in the settings; `canary_sha256` names the
    private set that runs on every version. Both None where nothing may adapt.
    """

    __pydantic_config__ = STRICT

    drift_budget: Amount | None = None
    canary_sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Results:
    """All of a run. `subjects` are the sha256 of what was loaded, by name: weights, guard, ..."""

    __pydantic_config__ = STRICT

    plan_sha256: Sha256
    plan: Plan
    subjects: Annotated[Mapping[Label, Sha256], Field(max_length=256)]
    risks: Annotated[tuple[RiskResult, ...], Field(max_length=MAX_RISKS)]
    started_at: Moment
    ended_at: Moment
    adaptation: Adaptation = field(default_factory=Adaptation)


def read(fields: object, *, name: str = "the results") -> Results:
    """Return the results of these JSON fields. Raises InputError, which names the wrong field."""
    found = build(Results, fields, name=name)
    plans.read(plans.view(found.plan), name=f"{name}: plan")
    for risk in found.risks:
        check_evidence(risk.evidence)
    if found.ended_at < found.started_at:
        raise InputError(f"{name}: ended_at is before started_at", param="ended_at")
    return found


def view(results: Results) -> dict[str, Any]:
    """Return results as JSON's objects; `read` takes them back."""
    return dump(Results, results)


def digest(results: Results) -> str:
    """Return the digest of what was seen: plan, subjects, terms of adapting, data and counts.

    Times and the names of logs are left out: of the same counts the same digest is made.
    """
    seen = {each.name: [each.data_sha256, dump(Evidence, each.evidence)] for each in results.risks}
    terms = dump(Adaptation, results.adaptation)
    return hash_json([results.plan_sha256, dict(results.subjects), terms, seen])


def check_plan(results: Results) -> None:
    """Raise ConflictError unless the plan in the results is the one that they name."""
    found = plans.digest(results.plan)
    if found != results.plan_sha256:
        raise ConflictError(
            f"the results are of plan {results.plan_sha256[:12]}, but hold plan {found[:12]}: "
            "it was changed",
            code="plan_changed",
        )


def load(path: Path) -> Results:
    """Read results. Raises NotFoundError, StorageError, TooLargeError, InputError."""
    data = read_bytes(path, limit_bytes=MAX_RESULT_BYTES)
    return read(read_table(data, name=path.name), name=path.name)


def save(results: Results, path: Path) -> None:
    """Write results as JSON, whole or not at all. Raises InputError, StorageError."""
    from fluvial.store.file import write_atomically

    text = json.dumps(view(read(view(results))), indent=2, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())
