"""Make a release of a run's results, and sign it. Verdicts are made again, of the counts."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fluvial import __version__
from fluvial.errors import ConflictError, InputError
from fluvial.gate import result
from fluvial.gate.document import write_new
from fluvial.gate.plan import Plan, Risk
from fluvial.gate.release import (
    PAYLOAD_TYPE,
    Release,
    RiskTerms,
    Terms,
    write_statement,
)
from fluvial.gate.result import Results, RiskResult
from fluvial.gate.verdict import Verdict, decide_risk

if TYPE_CHECKING:
    from securesystemslib.signer import Signer  # pyright: ignore[reportPrivateImportUsage]

DEFAULT_DAYS = 90
MAX_DAYS = 366
_TOLERANCE = 1e-9


def sign(results: Results, *, signer: "Signer", now: float, days: float = DEFAULT_DAYS) -> bytes:
    """Return a signed release of these results: a DSSE envelope, as JSON.

    It is valid for `days`, at most 366, from `now` (seconds since the epoch). Results that did not
    pass are signed too; the release says so, and is never valid for production. Raises
    ConflictError when the results are not of the plan they hold or their verdicts do not follow
    from their counts, InputError when something that the plan asks for is missing.
    """
    from securesystemslib.dsse import Envelope

    payload = write_statement(make_release(results, now=now, days=days))
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return (json.dumps(envelope.to_dict(), indent=2) + "\n").encode()


def save(envelope: bytes, path: Path) -> None:
    """Write a release. Raises ConflictError where there is a file already, StorageError."""
    write_new(path, envelope, what="a release")


def make_release(results: Results, *, now: float, days: float) -> Release:
    """Return the release of these results, not signed yet. Raises as `sign` does."""
    if not 0 < days <= MAX_DAYS:
        raise InputError(f"{days} days; over 0 and at most {MAX_DAYS} are due", param="days")
    result.read(result.view(results))
    result.check_plan(results)
    if not results.subjects:
        raise InputError("the results name no subject: nothing would be released")
    if results.ended_at > now:
        raise InputError("the run ended after this moment; check the clock")
    return Release(subjects=results.subjects, terms=_make_terms(results, now=now, days=days))


def _make_terms(results: Results, *, now: float, days: float) -> Terms:
    plan = results.plan
    return Terms(
        plan_sha256=results.plan_sha256,
        plan_name=plan.name,
        plan_created_at=plan.created_at,
        results_sha256=result.digest(results),
        model=plan.model,
        lineage=plan.lineage,
        attempt=plan.attempt,
        confidence=plan.confidence,
        mode=plan.mode,
        risks=tuple(_make_risk(risk, plan=plan, results=results) for risk in plan.risks),
        adaptation=results.adaptation,
        started_at=results.started_at,
        ended_at=results.ended_at,
        signed_at=now,
        expires_at=now + days * 86_400,
        software=f"fluvial {__version__}",
    )


def _make_risk(risk: Risk, *, plan: Plan, results: Results) -> RiskTerms:
    found = _find_result(risk, results=results)
    verdict = decide_risk(found.evidence, risk=risk, plan=plan)
    _check_claim(found, verdict)
    return RiskTerms(
        name=risk.name,
        task=risk.task,
        bar=risk.bar,
        direction=risk.direction,
        data_sha256=found.data_sha256,
        judge=next((judge for judge in plan.judges if judge.name == risk.judge), None),
        evidence=found.evidence,
        bound_above=verdict.bound_above,
        bound_below=verdict.bound_below,
        alpha=verdict.alpha,
        verdict=verdict.outcome,
        reason=verdict.reason,
    )


def _find_result(risk: Risk, *, results: Results) -> RiskResult:
    found = [each for each in results.risks if each.name == risk.name]
    if len(found) != 1 or len(results.risks) > len(results.plan.risks):
        raise InputError(
            f"the results hold {len(found)} entries for {risk.name!r}, and {len(results.risks)} in "
            f"all; one for each risk of the plan is due ({len(results.plan.risks)})"
        )
    if found[0].task != risk.task:
        raise InputError(f"{risk.name!r} was tested by {found[0].task}, not by {risk.task}")
    return found[0]


def _check_claim(found: RiskResult, verdict: Verdict) -> None:
    """Refuse results whose verdict or bounds are not those of their counts."""
    due = asdict(verdict)
    near = all(
        abs(getattr(found, name) - due[name]) <= _TOLERANCE
        for name in ("bound_above", "bound_below", "alpha")
    )
    if found.verdict != verdict.outcome or not near:
        raise ConflictError(
            f"{found.name!r} is said to be {found.verdict}, but of its counts follows "
            f"{verdict.outcome} ({verdict.reason}): the results were changed",
            code="results_changed",
        )
