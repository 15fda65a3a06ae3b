"""A plan, run: every risk's task against a server, and the verdicts that follow.

Nothing here needs Inspect until a run begins; without it there is a clear error.
"""

import asyncio
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx2

from fluvial.errors import ConflictError, EngineError, FluvialError, UnsupportedError
from fluvial.gate import plan as plans
from fluvial.gate.evidence import Calibration
from fluvial.gate.judge import Judge, calibrate, find_judge
from fluvial.gate.package import Open
from fluvial.gate.plan import Plan, Risk
from fluvial.gate.result import Adaptation, Results, RiskResult
from fluvial.gate.tally import count, find_trouble, hash_samples
from fluvial.gate.verdict import decide_risk

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.log import EvalSample

    from fluvial.gate.tasks.setting import Instruction
    from fluvial.gate.trial import Foreign, Server, Trial

OWN = "fluvial/"


class Watcher(Protocol):
    """Hears how a run goes."""

    def begin(self, risk: str, *, samples: int) -> None: ...

    def advance(self) -> None: ...


class Silent:
    """A Watcher that says nothing."""

    def begin(self, risk: str, *, samples: int) -> None: ...

    def advance(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a run is made with, beside its plan.

    `instructions` are those of the capability floor. `limit` cuts each risk's samples short; what
    is then missing counts as missing.
    """

    url: str
    log_dir: Path
    open_package: Open
    api_key: str | None = None
    instructions: Sequence["Instruction"] = ()
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of it; `interrupted` tells that the user stopped it.

    `troubles` has, by risk, why samples broke: the most frequent reason and how many had it.
    """

    results: Results
    interrupted: bool
    troubles: Mapping[str, tuple[str, int]]


def run(
    plan: Plan,
    *,
    bench: Bench,
    watcher: Watcher | None = None,
    on_start: Callable[[Mapping[str, str]], None] = lambda subjects: None,
    on_results: Callable[[Results], None] = lambda results: None,
) -> Run:
    """Run every risk of a plan, one after another, and return counts and verdicts.

    All tasks are loaded before the first one runs. An interruption (Ctrl-C) ends the run; what was
    seen by then counts, what was not is missing. `on_start` hears, before anything is asked, what
    the server loaded; `on_results`, after each risk, what is known by then, with the rest missing.
    Raises UnsupportedError without the extra `gate`, InputError for a task or judge that can't be
    had, ConflictError for a server with another model, or that became another one during the run,
    or a judge whose record is not the plan's.
    """
    require_inspect()
    from fluvial.gate.trial import Server

    started_at = time.time()
    server = Server(url=bench.url, model=plan.model, api_key=bench.api_key)
    subjects, adaptation = read_subjects(server)
    judges = _open_judges(plan, open_package=bench.open_package)
    tasks = {risk.name: _open_task(risk, plan, bench, judges, server) for risk in plan.risks}
    on_start(subjects)
    bare = Results(
        plan_sha256=plans.digest(plan),
        plan=plan,
        subjects=subjects,
        adaptation=adaptation,
        risks=(),
        started_at=started_at,
        ended_at=started_at,
    )
    trials: dict[str, Trial] = {}
    interrupted = False
    for risk in plan.risks:
        try:
            trial = _try(tasks[risk.name], risk, plan, bench, server, watcher or Silent())
            trials[risk.name] = trial
            interrupted = trial.interrupted
        except KeyboardInterrupt:  # between two tasks; inside of one Inspect has dealt with it
            interrupted = True
        bare = _hold_to_server(bare, server)
        on_results(_sum_up(bare, trials))
        if interrupted:
            break
    troubles = {
        name: find_trouble(trial.samples)
        for name, trial in trials.items()
        if not trial.interrupted  # its samples were stopped, which is no trouble
    }
    return Run(
        results=_sum_up(bare, trials),
        interrupted=interrupted,
        troubles={name: trouble for name, trouble in troubles.items() if trouble is not None},
    )


def require_inspect() -> None:
    """Raise UnsupportedError where Inspect is not installed."""
    try:
        import inspect_ai  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise UnsupportedError(
            "the gate's tests run on inspect-ai, which is not installed here: "
            "`pip install 'fluvial[gate]'` brings it"
        ) from None


def read_subjects(server: "Server") -> tuple[dict[str, str], Adaptation]:
    """Return the sha256 of what the server loaded, by name, and what it says of learning.

    Raises EngineError when it does not answer, ConflictError when it serves another model.
    """
    from fluvial.gate.provider import LOOPBACK

    headers = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
    url = httpx2.URL(server.url)
    # As for the questions: through a proxy this machine's address would be another machine's.
    own = url.host in LOOPBACK
    with httpx2.Client(base_url=url, headers=headers, timeout=30, trust_env=not own) as client:
        try:
            health: dict[str, Any] = client.get("/healthz").raise_for_status().json()
            models: dict[str, Any] = client.get("/v1/models").raise_for_status().json()
            served = next(each for each in models["data"] if each["fluvial"]["served"])["fluvial"]
            name = health["model"]
        except (httpx2.HTTPError, ValueError, LookupError, TypeError, StopIteration) as error:
            why = str(error) or type(error).__name__
            raise EngineError(f"no Fluvial server answers at {server.url}: {why}") from error
    if name != server.model:
        raise ConflictError(
            f"the server serves {name!r}, but the plan is for {server.model!r}",
            code="other_model",
        )
    told: dict[str, str] = served.get("subjects") or {"weights": served["sha256"]}
    bounds: dict[str, Any] = served.get("adaptation") or {}
    return told, Adaptation(
        drift_budget=bounds.get("drift_budget"), canary_sha256=bounds.get("canary_sha256")
    )


def _hold_to_server(bare: Results, server: "Server") -> Results:
    """Return the results without subjects where the server can't say any more what it serves.

    Raises ConflictError when it serves something else than when the run began.
    """
    try:
        found = read_subjects(server)
    except EngineError:  # it died; what it was asked since is missing
        return replace(bare, subjects={})
    if bare.subjects and found != (bare.subjects, bare.adaptation):
        raise ConflictError(
            "the server loaded something else during the run: what was seen is not of one model. "
            "Run the plan again",
            code="other_subjects",
        )
    return bare


def _open_judges(plan: Plan, *, open_package: Open) -> dict[str, Judge]:
    """Find the judges of our own tasks; those that are rules are measured again.

    A foreign task judges by itself: of its judge the plan has the name and the record, no more.
    """
    ours = [risk for risk in plan.risks if risk.task.startswith(OWN)]
    names = {risk.judge for risk in ours if risk.judge is not None}
    judges = {name: find_judge(name) for name in sorted(names)}
    for record in plan.judges:
        judge = judges.get(record.name)
        if judge is None or record.calibration is None or not record.name.endswith("-rules"):
            continue
        measured = asyncio.run(calibrate(judge, open_package=open_package))
        if measured.calibration != record.calibration:
            raise ConflictError(
                f"the plan's record of the judge {record.name} is {_tell(record.calibration)}, "
                f"but measured now it is {_tell(measured.calibration)}: make a new plan",
                code="other_judge",
            )
    return judges


def _open_task(
    risk: Risk, plan: Plan, bench: Bench, judges: Mapping[str, Judge], server: "Server"
) -> "Task | Foreign":
    from fluvial.gate.tasks import make_task
    from fluvial.gate.tasks.setting import Setting
    from fluvial.gate.trial import Foreign, check_foreign

    samples = min(risk.samples, bench.limit or risk.samples)
    try:
        if risk.task.startswith(OWN):
            setting = Setting(
                samples=samples,
                seed=plan.seed,
                open_package=bench.open_package,
                judge=judges.get(risk.judge or ""),
                arguments=risk.arguments,
                instructions=bench.instructions,
            )
            return make_task(risk.task.removeprefix(OWN), setting)
        foreign = Foreign(name=risk.task, arguments=risk.arguments, samples=samples)
        with tempfile.TemporaryDirectory(prefix="fluvial-gate-") as folder:
            check_foreign(foreign, server=server, log_dir=Path(folder))
    except FluvialError as error:
        told = f"risk {risk.name!r}: {error.message}"
        raise type(error)(told, code=error.code, param=error.param) from error
    return foreign


def _try(
    task: "Task | Foreign",
    risk: Risk,
    plan: Plan,
    bench: Bench,
    server: "Server",
    watcher: Watcher,
) -> "Trial":
    from fluvial.gate.stopping import run_in_parts
    from fluvial.gate.trial import Trial, run_trial

    def is_decided(samples: "Sequence[EvalSample]") -> bool:
        seen = Trial(samples=list(samples), log=None, interrupted=False)
        return _judge(risk, plan, seen).verdict != "NOT ENOUGH EVIDENCE"

    watcher.begin(risk.name, samples=min(risk.samples, bench.limit or risk.samples))
    given: dict[str, Any] = {"server": server, "seed": plan.seed, "log_dir": bench.log_dir}
    if plan.mode == "anytime":
        return run_in_parts(task, is_decided=is_decided, on_sample=watcher.advance, **given)
    return run_trial(task, on_sample=watcher.advance, **given)


def _sum_up(bare: Results, trials: Mapping[str, "Trial"]) -> Results:
    found = [_judge(risk, bare.plan, trials.get(risk.name)) for risk in bare.plan.risks]
    return replace(bare, risks=tuple(found), ended_at=time.time())


def _judge(risk: Risk, plan: Plan, trial: "Trial | None") -> RiskResult:
    records = {record.name: record.calibration for record in plan.judges}
    samples = [] if trial is None else trial.samples
    evidence = count(
        samples,
        # A test that may stop at any time misses nothing when it does.
        planned=risk.samples if plan.mode == "fixed" else 0,
        judged=risk.judge is not None,
        calibration=records.get(risk.judge or ""),
    )
    verdict = decide_risk(evidence, risk=risk, plan=plan)
    return RiskResult(
        name=risk.name,
        task=risk.task,
        data_sha256=hash_samples(samples),
        evidence=evidence,
        bound_above=verdict.bound_above,
        bound_below=verdict.bound_below,
        alpha=verdict.alpha,
        verdict=verdict.outcome,
        reason=verdict.reason,
        log=trial.log.name if trial is not None and trial.log is not None else None,
    )


def _tell(found: Calibration | None) -> str:
    if found is None:
        return "none"
    return (
        f"{found.caught} of {found.positives} caught and {found.false_alarms} of "
        f"{found.negatives} false alarms"
    )
