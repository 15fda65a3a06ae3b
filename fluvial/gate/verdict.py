"""PASS, FAIL or NOT ENOUGH EVIDENCE, with the reason in words.

PASS when the bound that holds with confidence 1 - alpha meets the bar, FAIL when the opposite bound
misses it. Whatever leaves doubt about the counts themselves gives NOT ENOUGH EVIDENCE, however
clear they look: samples that broke or were not run, a judge without a record, too few clusters.
"""

from dataclasses import dataclass, replace

from fluvial.gate import correction
from fluvial.gate.evidence import Evidence, check_evidence
from fluvial.gate.plan import MIN_CLUSTERS, Direction, Mode, Plan, Risk
from fluvial.gate.power import count_further, limit_failures
from fluvial.gate.result import Outcome
from fluvial.gate.spending import find_alpha
from fluvial.gate.statistics import check_share


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What follows from the evidence.

    The bounds are on the share that the bar is about (of clusters that fail; for `at_least`, that
    succeed), each with confidence 1 - `alpha`. `further_clean` is the number of further clean
    clusters that would make it a PASS: 0 for one, None where no number would, or for a FAIL.
    """

    outcome: Outcome
    reason: str
    bound_above: float
    bound_below: float
    alpha: float
    further_clean: int | None


def decide(
    evidence: Evidence,
    *,
    bar: float,
    direction: Direction = "at_most",
    alpha: float = 0.05,
    mode: Mode = "fixed",
    min_clusters: int = MIN_CLUSTERS,
) -> Verdict:
    """Judge the evidence of one risk by its bar. Raises InputError for what can't be counts."""
    check_evidence(evidence)
    check_share(alpha, name="alpha")
    limit = limit_failures(bar, direction=direction)
    above = correction.bound_above(evidence, alpha=alpha, mode=mode)
    below = correction.bound_below(evidence, alpha=alpha, mode=mode)
    plain = _compare(above, below, limit=limit)
    doubts = _list_doubts(evidence, min_clusters=min_clusters)
    outcome: Outcome = "NOT ENOUGH EVIDENCE" if doubts else plain
    further = _count_clean(
        evidence, outcome, limit=limit, alpha=alpha, mode=mode, min_clusters=min_clusters
    )
    bounds = (above, below) if direction == "at_most" else (1 - below, 1 - above)
    return Verdict(
        outcome=outcome,
        reason=_tell(
            doubts,
            plain,
            bounds=bounds,
            bar=bar,
            direction=direction,
            further=further,
            judged=evidence.judged,
        ),
        bound_above=bounds[0],
        bound_below=bounds[1],
        alpha=alpha,
        further_clean=further,
    )


def decide_risk(evidence: Evidence, *, risk: Risk, plan: Plan) -> Verdict:
    """Judge the evidence of one risk as its plan says, with the alpha of its attempt.

    Samples that are missing count as errors, unless the plan lets testing stop early. A calibration
    that is not the plan's counts as none: a judge's record is fixed before it judges.
    """
    check_evidence(evidence)
    return decide(
        _hold_to(evidence, risk=risk, plan=plan),
        bar=risk.bar,
        direction=risk.direction,
        alpha=find_alpha(plan),
        mode=plan.mode,
        min_clusters=risk.min_clusters,
    )


def _hold_to(evidence: Evidence, *, risk: Risk, plan: Plan) -> Evidence:
    """Return the evidence with what the plan promised and the run left out."""
    missing = risk.samples - evidence.samples if plan.mode == "fixed" else 0
    held = replace(evidence, errors=max(evidence.errors, missing, 0))
    if risk.judge is None:  # nor may a record be brought that would explain failures away
        return replace(held, judged=False, calibration=None)
    records = {judge.name: judge.calibration for judge in plan.judges}
    record = records.get(risk.judge)
    known = record if evidence.calibration in (None, record) else None
    return replace(held, judged=True, calibration=known)


def _compare(above: float, below: float, *, limit: float) -> Outcome:
    if above <= limit:
        return "PASS"
    return "FAIL" if below > limit else "NOT ENOUGH EVIDENCE"


def _list_doubts(evidence: Evidence, *, min_clusters: int) -> list[str]:
    doubts: list[str] = []
    if evidence.errors:
        doubts.append(f"{evidence.errors} of the samples broke or were not run")
    found = evidence.calibration
    if evidence.judged and (found is None or not found.positives or not found.negatives):
        doubts.append("the judge was never held against people's labels")
    if evidence.clusters < min_clusters:
        doubts.append(f"too few clusters came to an end: {evidence.clusters} of {min_clusters}")
    return doubts


def _count_clean(
    evidence: Evidence,
    outcome: Outcome,
    *,
    limit: float,
    alpha: float,
    mode: Mode,
    min_clusters: int,
) -> int | None:
    if outcome == "PASS":
        return 0
    if outcome == "FAIL":
        return None
    further = count_further(evidence, limit=limit, alpha=alpha, mode=mode)
    return None if further is None else max(further, min_clusters - evidence.clusters)


def _tell(
    doubts: list[str],
    plain: Outcome,
    *,
    bounds: tuple[float, float],
    bar: float,
    direction: Direction,
    further: int | None,
    judged: bool,
) -> str:
    above, below = bounds
    what = "failures" if direction == "at_most" else "successes"
    room = f"the share of {what} is between {_tell_share(below)} and {_tell_share(above)}"
    room += f", the bar {_tell_share(bar)}"
    if doubts:
        also = f"; the counts alone would say {plain}" if plain != "NOT ENOUGH EVIDENCE" else ""
        return f"{'; '.join(doubts)}{also} ({room})"
    if plain != "NOT ENOUGH EVIDENCE":
        return room
    if further is None:
        return f"{room}; no number of clean trials would pass"
    many = "s" * (further != 1)
    if judged:
        return f"{room}; {further} further trial{many} without a flag would pass"
    return f"{room}; {further} further clean trial{many} would pass"


def _tell_share(share: float) -> str:
    return f"{100 * share:.5g} %"
