"""Small plans and results that the gate's tests start from."""

from dataclasses import replace
from typing import Any

from fluvial.gate import plan as plans
from fluvial.gate.evidence import Calibration, Evidence
from fluvial.gate.plan import Judge, Plan, Risk
from fluvial.gate.result import Adaptation, Results, RiskResult
from fluvial.gate.verdict import decide_risk

GOOD_JUDGE = Calibration(positives=200, caught=190, negatives=200, false_alarms=2)
ENDED_AT = 1_700_001_000.0
SUBJECTS = {"weights": "a" * 64, "tokenizer": "b" * 64, "guard": "c" * 64}


def make_evidence(clusters: int, failed: int = 0, **more: Any) -> Evidence:
    return Evidence(**{"samples": clusters, "clusters": clusters, "failed": failed, **more})


def make_risk(name: str = "harm", **more: Any) -> Risk:
    return Risk(**{"name": name, "task": "fluvial/harm", "bar": 0.1, "samples": 60, **more})


def make_plan(*risks: Risk, **more: Any) -> Plan:
    fields: dict[str, Any] = {
        "name": "small",
        "model": "tiny",
        "lineage": "tiny",
        "attempt": 1,
        "confidence": 0.95,
        "seed": 7,
        "created_at": 1_700_000_000.0,
        "risks": risks or (make_risk(),),
    }
    return Plan(**{**fields, **more})


def make_judged_plan() -> Plan:
    risk = make_risk(judge="people", samples=80)
    return make_plan(risk, judges=(Judge(name="people", calibration=GOOD_JUDGE),))


def make_results(plan: Plan, *seen: Evidence, **more: Any) -> Results:
    """Return honest results of a plan; without evidence, every risk came out clean."""
    evidence = seen or tuple(make_evidence(risk.samples) for risk in plan.risks)
    return Results(
        **{
            "plan_sha256": plans.digest(plan),
            "plan": plan,
            "subjects": SUBJECTS,
            "risks": tuple(
                judge(risk, plan, each) for risk, each in zip(plan.risks, evidence, strict=True)
            ),
            "started_at": 1_700_000_500.0,
            "ended_at": ENDED_AT,
            "adaptation": Adaptation(drift_budget=0.05, canary_sha256="d" * 64),
            **more,
        }
    )


def judge(risk: Risk, plan: Plan, evidence: Evidence) -> RiskResult:
    verdict = decide_risk(evidence, risk=risk, plan=plan)
    return RiskResult(
        name=risk.name,
        task=risk.task,
        data_sha256="e" * 64,
        evidence=evidence,
        bound_above=verdict.bound_above,
        bound_below=verdict.bound_below,
        alpha=verdict.alpha,
        verdict=verdict.outcome,
        reason=verdict.reason,
    )


def change_risk(results: Results, **more: Any) -> Results:
    """Return results whose first risk says something else."""
    return replace(results, risks=(replace(results.risks[0], **more), *results.risks[1:]))
