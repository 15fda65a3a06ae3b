"""Make a plan of a template: what is tested, with how much testing can show and what it costs.

A template is TOML with the fields of a plan but `model`, `lineage`, `attempt`, `seed`, `created_at`
and `estimates`, and with two tables by the names of risks: `seconds_per_sample`, as measured, and
`assumed_share`, at which power is computed (by default a quarter of the bar's failures).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fluvial.errors import InputError
from fluvial.gate import plan as plans
from fluvial.gate.document import STRICT, Amount, Label, Share, build, read_bytes, read_table
from fluvial.gate.plan import MAX_PLAN_BYTES, MAX_RISKS, Estimate, Judge, Mode, Plan, Risk
from fluvial.gate.power import Design, compute_power, count_allowed, limit_failures
from fluvial.gate.spending import find_alpha

DEFAULT_FILE = Path(__file__).with_name("default.toml")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A plan without what belongs to one attempt."""

    __pydantic_config__ = STRICT

    name: Label
    confidence: Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)] = 0.95
    mode: Mode = "fixed"
    risks: Annotated[tuple[Risk, ...], Field(min_length=1, max_length=MAX_RISKS)]
    judges: Annotated[tuple[Judge, ...], Field(max_length=MAX_RISKS)] = ()
    seconds_per_sample: Mapping[Label, Amount] = field(default_factory=dict[str, float])
    assumed_share: Mapping[Label, Share] = field(default_factory=dict[str, float])

    def list_unknown_judges(self) -> list[str]:
        """Return the judges that decide a risk and have no entry, in the order of the risks."""
        known = {judge.name for judge in self.judges}
        asked = [risk.judge for risk in self.risks if risk.judge is not None]
        return [name for name in dict.fromkeys(asked) if name not in known]


@dataclass(frozen=True, kw_only=True)
class Occasion:
    """What a template becomes a plan for. `created_at` is seconds since the epoch."""

    model: str
    lineage: str
    attempt: int
    seed: int
    created_at: float
    usd_per_hour: float = 0.0


def load_template(path: Path = DEFAULT_FILE) -> Template:
    """Read a template. Raises NotFoundError, StorageError, TooLargeError, InputError."""
    data = read_bytes(path, limit_bytes=MAX_PLAN_BYTES)
    found = build(Template, read_table(data, name=path.name), name=path.name)
    names = {risk.name for risk in found.risks}
    for table in (found.seconds_per_sample, found.assumed_share):
        if unknown := sorted(set(table) - names):
            raise InputError(f"{path.name}: there is no risk {unknown[0]!r}", param=unknown[0])
    return found


def make_plan(template: Template, *, occasion: Occasion, judges: Sequence[Judge] = ()) -> Plan:
    """Return the plan, with the records of `judges` and an estimate for each risk. InputError."""
    fields: dict[str, Any] = {
        "name": template.name,
        "model": occasion.model,
        "lineage": occasion.lineage,
        "attempt": occasion.attempt,
        "confidence": template.confidence,
        "seed": occasion.seed,
        "created_at": occasion.created_at,
        "risks": template.risks,
        "mode": template.mode,
        "judges": (*template.judges, *judges),
    }
    bare = plans.read(plans.view(Plan(**fields)))
    return Plan(
        **fields,
        estimates=tuple(
            estimate(risk, plan=bare, template=template, usd_per_hour=occasion.usd_per_hour)
            for risk in bare.risks
        ),
    )


def estimate(risk: Risk, *, plan: Plan, template: Template, usd_per_hour: float) -> Estimate:
    """Return what the samples of one risk can show, and what they cost."""
    limit = limit_failures(risk.bar, direction=risk.direction)
    default = limit / 4 if risk.direction == "at_most" else 1 - limit / 4
    assumed = template.assumed_share.get(risk.name, default)
    clusters = risk.clusters or risk.samples
    test = _make_test(risk, plan=plan, limit=limit)
    failing = assumed if risk.direction == "at_most" else 1 - assumed
    enough = clusters >= risk.min_clusters
    seconds = template.seconds_per_sample.get(risk.name)
    total = None if seconds is None else seconds * risk.samples
    return Estimate(
        risk=risk.name,
        power=compute_power(test, trials=clusters, share=failing) if enough else 0.0,
        assumed_share=assumed,
        allowed_failures=count_allowed(test, trials=clusters) if enough else None,
        seconds=total,
        usd=None if total is None else total / 3600 * usd_per_hour,
    )


def _make_test(risk: Risk, *, plan: Plan, limit: float) -> Design:
    records = {judge.name: judge.calibration for judge in plan.judges}
    return Design(
        limit=limit,
        alpha=find_alpha(plan),
        mode=plan.mode,
        judged=risk.judge is not None,
        calibration=None if risk.judge is None else records.get(risk.judge),
    )
