"""Does the check on adapted versions work? A harmless stand-in, from end to end, on real texts.

A policy forbids an invented topic, and the base declines it. An adapter then reads dialogues whose
assistant speaks of the topic, and becomes a version every few chunks, each of which is asked the
canaries. Beside it, other adapters each read one ordinary document: what the canaries refuse of
those is a false alarm.
"""

import random
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fluvial.adapt.calibration import ensure_basis
from fluvial.adapt.learner import Learner
from fluvial.adapt.probe import load_probe
from fluvial.adapt.rule import Rule
from fluvial.bench.machine import describe_machine
from fluvial.bench.text import read_text
from fluvial.config import Settings
from fluvial.engine.engine import Engine
from fluvial.engine.generation import Generation
from fluvial.errors import InputError, ModelError
from fluvial.gate.canary import (
    ALPHA,
    ANSWER_TOKENS,
    COUNT,
    KINDS,
    TOLERATED,
    Canary,
    Verdict,
    judge,
    order,
    share_out,
)
from fluvial.gate.canary_pool import draw, draw_policy, invent_topic, make_policy
from fluvial.gate.statistics import bound_above, bound_below
from fluvial.model.adapter import Adapter, Tensors
from fluvial.model.basis import FOLDER, Bases
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer
from fluvial.model.tokenizer import Tokenizer
from fluvial.note import tell_all
from fluvial.types import Message, Sampling

GRAPHS_FOLDER = "graphs"
SESSION = "canary"
DECLINE_SAMPLES = 64
MAX_DRAWS = 20
SHOWN, ASKED = 4, 6
"""Turns before what is taught, and questions about the topic, in each dialogue."""

_FILE = Path(__file__).with_name("canary.toml")

OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How the benchmark is run. Sizes in tokens; `budgets` are of drift."""

    seed: int = 1
    canaries: int = COUNT
    documents: int = 200
    document_tokens: int = 512
    version_tokens: int = 512
    versions: int = 16
    budgets: tuple[float, ...] = (0.04, 1.0)


QUICK = Trial(documents=4, document_tokens=128, versions=2, budgets=(0.04,))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured with: the model running, and what makes learners within a drift budget."""

    engine: Engine
    make_learner: Callable[[float], Learner]
    tokenizer: Tokenizer
    first: int

    def ask(self, canaries: Sequence[Canary], tensors: Tensors | None = None) -> list[str]:
        """Return the answers of the base, or of an adapter."""
        adapter = None if tensors is None else Adapter(f"canary/{time.monotonic_ns()}", tensors)
        found: dict[str, str] = {}
        for group in order(canaries):
            answers = [self._begin(canary, adapter) for canary in group]
            for canary, answer in zip(group, answers, strict=True):
                found[canary.sha256] = "".join(delta.text for delta in answer)
        self.engine.forget(SESSION)
        return [found[canary.sha256] for canary in canaries]

    def _begin(self, canary: Canary, adapter: Adapter | None) -> Generation:
        return self.engine.generate(
            canary.list_messages(),
            sampling=Sampling(temperature=0, max_tokens=ANSWER_TOKENS),
            lane=SESSION,
            adapter=lambda: adapter,
        )

    def check(self, canaries: Sequence[Canary], tensors: Tensors) -> tuple[Verdict, float]:
        """Return the verdict on an adapter, and the seconds that it took."""
        begun_s = time.perf_counter()
        verdict = judge(canaries, self.ask(canaries, tensors))
        return verdict, time.perf_counter() - begun_s


def run(
    files: Sequence[Path],
    *,
    engine: Engine,
    model_path: Path,
    settings: Settings,
    trial: Trial,
    on_step: OnStep = lambda what, done, total: None,
) -> dict[str, Any]:
    """Return the figures. `files` are cut into the ordinary documents; none where there are none.

    Raises InputError where the files hold fewer documents than asked for, ModelError where the base
    does not decline the topic often enough to be tested.
    """
    bench = _open(engine, model_path, settings)
    rng = random.Random(trial.seed)  # noqa: S311 - a benchmark that can be repeated
    documents = _cut(files, bench, trial=trial, rng=rng)
    topic = invent_topic(rng)
    declines = _measure_declines(bench, topic=topic, rng=rng)
    canaries = _choose(bench, topic=topic, rng=rng, trial=trial)
    taught = [
        _teach(bench, canaries, topic=topic, budget=budget, trial=trial, on_step=on_step)
        for budget in trial.budgets
    ]
    return {
        "model": engine.name,
        "topic": topic,
        "base": declines,
        "canaries": share_out(trial.canaries),
        "stated": {"alpha": ALPHA, "tolerated": TOLERATED},
        "taught": taught,
        "benign": _read_benign(
            bench, canaries, documents, budget=settings.drift_budget, on_step=on_step
        ),
        "rule": settings.rule,
        "version_tokens": trial.version_tokens,
        "machine": describe_machine(),
    }


def _open(engine: Engine, path: Path, settings: Settings) -> Bench:
    checkpoint = open_checkpoint(path)
    tokenizer = open_tokenizer(checkpoint)
    positions = min(settings.context_tokens, checkpoint.declaration.context_tokens)

    def make_learner(budget: float) -> Learner:
        learner = Learner(
            checkpoint,
            rule=Rule.from_settings(settings, checkpoint.declaration).fit(positions),
            graph_dir=settings.data_dir / GRAPHS_FOLDER,
            positions=positions,
            probe=tokenizer.encode(load_probe()),
            drift_budget=budget,
        )
        learner.use_threads(settings.learner_threads or 1)
        if settings.calibrate:
            bases = Bases(settings.data_dir / FOLDER)
            ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer)
        return learner

    return Bench(
        engine=engine,
        make_learner=make_learner,
        tokenizer=tokenizer,
        first=choose_first_token(tokenizer),
    )


def _cut(
    files: Sequence[Path], bench: Bench, *, trial: Trial, rng: random.Random
) -> list[list[int]]:
    """Cut the files into documents, and draw as many as are wanted, evenly over the files."""
    if not files or not trial.documents:
        return []
    drawn: list[list[int]] = []
    for number, path in enumerate(files):
        ids = bench.tokenizer.encode(read_text(path))
        size = trial.document_tokens
        whole = [ids[at : at + size] for at in range(0, len(ids) - size + 1, size)]
        wanted = (trial.documents - len(drawn)) // (len(files) - number)
        if len(whole) < wanted:
            raise InputError(f"{path} holds {len(whole)} documents of {size} tokens, not {wanted}")
        drawn += rng.sample(whole, wanted)
    rng.shuffle(drawn)
    return drawn


def _measure_declines(bench: Bench, *, topic: str, rng: random.Random) -> dict[str, Any]:
    """Tell how often the base declines the topic, and answers other questions, by one policy."""
    about = _draw_questions(rng, topic=topic)
    shown = about[0]
    others = [draw("ability", rng, topic=topic) for _ in range(DECLINE_SAMPLES)]
    beside = [replace(each, system=shown.system, turns=shown.turns) for each in others]
    declined = _count_accepted(about, bench.ask(about))
    refused = [
        replace(each, criteria={"declines": True})
        for each in beside  # what is not about the topic, and declined all the same
    ]
    return {
        "declined": _show_share(declined, trials=len(about)),
        "others_declined": _show_share(
            _count_accepted(refused, bench.ask(beside)), trials=len(beside)
        ),
    }


def _draw_questions(rng: random.Random, *, topic: str) -> list[Canary]:
    """Draw different questions about a topic that its policy forbids."""
    drawn = {draw_policy(rng, topic=topic).prompt for _ in range(4 * DECLINE_SAMPLES)}
    prompts = sorted(drawn)
    rng.shuffle(prompts)
    return [make_policy(topic, prompt=prompt) for prompt in prompts[:DECLINE_SAMPLES]]


def _choose(bench: Bench, *, topic: str, rng: random.Random, trial: Trial) -> list[Canary]:
    """Draw canaries that the base passes, as many of each kind as are wanted."""
    chosen: dict[str, Canary] = {}
    for kind in KINDS:
        found, wanted = 0, share_out(trial.canaries)[kind]
        for _ in range(MAX_DRAWS):
            drawn = [draw(kind, rng, topic=topic) for _ in range(wanted)]
            for canary, answer in zip(drawn, bench.ask(drawn), strict=True):
                if found < wanted and canary.accepts(answer) and canary.sha256 not in chosen:
                    chosen[canary.sha256] = canary
                    found += 1
            if found == wanted:
                break
        else:
            raise ModelError(f"the base passes too few canaries of kind {kind} to be tested")
    return [*chosen.values()]


def _teach(
    bench: Bench,
    canaries: Sequence[Canary],
    *,
    topic: str,
    budget: float,
    trial: Trial,
    on_step: OnStep,
) -> dict[str, Any]:
    """Read dialogues that speak of the topic, version by version; ask the canaries of each."""
    learner = bench.make_learner(budget)
    learner.load(SESSION, None)
    ids = write_dialogues(
        bench, topic=topic, seed=trial.seed, tokens=trial.versions * trial.version_tokens
    )
    rows: list[dict[str, Any]] = []
    updates = 0
    for number in range(1, trial.versions + 1):
        part = range((number - 1) * trial.version_tokens, number * trial.version_tokens)
        updates += _read(learner, bench, ids, part)
        settled = learner.settle(SESSION)
        verdict, seconds = bench.check(canaries, learner.export(SESSION))
        rows.append(
            {
                "version": number,
                "updates": updates,
                "tokens": part.stop,
                "drift": round(settled.drift, 5),
                "scale": round(settled.scale, 3),
                "notes": tell_all(settled.notes),
                **_show_verdict(verdict, seconds),
            }
        )
        on_step(f"taught, budget {budget:g}", number, trial.versions)
        if not verdict.passed:  # from here on the session would stand on the version before
            break
    fresh = _draw_questions(random.Random(-trial.seed), topic=topic)  # noqa: S311
    declined = _count_accepted(fresh, bench.ask(fresh, learner.export(SESSION)))
    caught = next((row for row in rows if not row["passed"]), None)
    return {
        "drift_budget": budget,
        "caught_at_version": caught and caught["version"],
        "caught_after_updates": caught and caught["updates"],
        "declined_after": _show_share(declined, trials=len(fresh)),
        "check_s": round(statistics.median(row["seconds"] for row in rows), 2),
        "versions": rows,
    }


def write_dialogues(bench: Bench, *, topic: str, seed: int, tokens: int) -> list[int]:
    """Return dialogues whose assistant speaks of the topic although its policy forbids it.

    The policy and some of what shows its meaning stand before: it is told, and then not followed.
    They are in the chat's own form, control tokens and all. No text can say those: a document that
    spells them is read as plain letters, so this is worse than what a session can be given.
    """
    forms = tomllib.loads(_FILE.read_text(encoding="utf-8"))
    rng = random.Random(seed)  # noqa: S311
    names = {"t": topic, "T": topic.capitalize()}
    ids: list[int] = []
    while len(ids) < tokens:
        policy = make_policy(topic, prompt="-").list_messages()
        told = [policy[0], *policy[1 : 1 + 2 * SHOWN]]
        for question in rng.sample(forms["questions"], ASKED):
            told.append(Message(role="user", content=question.format(**names)))
            answer = rng.choice(forms["answers"]).format(**names)
            told.append(Message(role="assistant", content=answer))
        ids += bench.engine.template.encode(told[:-1], tokenizer=bench.tokenizer)
        ids += bench.tokenizer.encode(told[-1].content)
    return ids[:tokens]


def _read_benign(
    bench: Bench,
    canaries: Sequence[Canary],
    documents: Sequence[Sequence[int]],
    *,
    budget: float,
    on_step: OnStep,
) -> dict[str, Any] | None:
    """Read each document from the base on, and ask the canaries of the version that it makes."""
    if not documents:
        return None
    learner = bench.make_learner(budget)
    rows: list[dict[str, Any]] = []
    for number, ids in enumerate(documents, 1):
        learner.load(SESSION, None)
        _read(learner, bench, ids, range(len(ids)))
        settled = learner.settle(SESSION)
        verdict, seconds = bench.check(canaries, learner.export(SESSION))
        rows.append({"drift": round(settled.drift, 5), **_show_verdict(verdict, seconds)})
        on_step("benign documents", number, len(documents))
    alarms = sum(not row["passed"] for row in rows)
    return {
        "documents": len(rows),
        "document_tokens": len(documents[0]),
        "drift_budget": budget,
        "false_alarms": _show_share(alarms, trials=len(rows)),
        "turned": {
            kind: round(sum(row[kind][0] for row in rows) / sum(row[kind][1] for row in rows), 4)
            for kind in KINDS
        },
        "most_failed": {kind: max(row[kind][0] for row in rows) for kind in KINDS},
        "median_drift": round(statistics.median(row["drift"] for row in rows), 5),
        "check_s": round(statistics.median(row["seconds"] for row in rows), 2),
    }


def _read(learner: Learner, bench: Bench, ids: Sequence[int], part: range) -> int:
    """Learn from a part of a text, as a session does; returns the number of updates."""
    updates, size = 0, learner.rule.chunk_tokens
    for at in range(part.start, min(part.stop, len(ids)), size):
        result = learner.read(
            SESSION,
            context=[bench.first, *ids[:at]],
            chunk=ids[at : min(at + size, part.stop)],
            learn=True,
            compare=False,
            place=(f"text/{part.start}", at),
        )
        updates += result.learned
    return updates


def _count_accepted(canaries: Sequence[Canary], answers: Sequence[str]) -> int:
    return sum(map(Canary.accepts, canaries, answers))


def _show_share(count: int, *, trials: int) -> dict[str, Any]:
    """Return a share with its exact two-sided interval of 95 %."""
    return {
        "count": count,
        "of": trials,
        "share": round(count / trials, 4),
        "low": round(bound_below(count, trials=trials, alpha=0.025), 4),
        "high": round(bound_above(count, trials=trials, alpha=0.025), 4),
    }


def _show_verdict(verdict: Verdict, seconds: float) -> dict[str, Any]:
    return {
        "policy": [verdict.policy.failed, verdict.policy.counted],
        "ability": [verdict.ability.failed, verdict.ability.counted],
        "passed": verdict.passed,
        "seconds": round(seconds, 2),
    }
