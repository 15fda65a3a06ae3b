"""Measure what holding text back costs: the wait for the first visible token, tokens a second.

One engine answers the same questions with the guard and without, by turns, so that a machine whose
speed drifts treats both alike. Each answer has an owner of its own: no cache is shared. With the
guard a prompt is checked before it is read, and an answer as it is in a server.
"""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.spread import summarise
from fluvial.config import Settings
from fluvial.engine.engine import Engine
from fluvial.errors import EngineError
from fluvial.guard.check import Finding
from fluvial.guard.guard import Guard
from fluvial.guard.opening import load_policy, open_guard
from fluvial.guard.policy import Place
from fluvial.model.opening import open_model
from fluvial.model.registry import Registry
from fluvial.service.guarding import Guarding
from fluvial.service.start import open_engine
from fluvial.types import Delta, Message, Sampling

ROUNDS, QUICK_ROUNDS = 12, 2
TOKENS, QUICK_TOKENS = 256, 48
STREAMS = (1, 4)
QUESTIONS = (
    "Explain how rivers shape valleys over a long time.",
    "Write a Python function that merges two sorted lists, and explain it.",
    "What should I think of when I plan a vegetable garden?",
    "Tell me a story about a lighthouse keeper and a storm.",
    "How do vaccines teach the body to fight a disease?",
    "Give me advice for a first job interview.",
    "请介绍一下中国的茶文化。",
    "Describe how bread is made, step by step.",
)

OnRound = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: seconds to its first visible text and to its end, and what it took."""

    first_s: float
    whole_s: float
    tokens: int
    stopped: bool


@dataclass(kw_only=True)
class Side:
    """The answers of one side. A round is what was asked at once; it takes its slowest's time."""

    answers: list[Answer] = field(default_factory=list[Answer])
    speeds: list[float] = field(default_factory=list[float])

    def add(self, answers: Sequence[Answer]) -> None:
        self.answers += answers
        tokens = sum(each.tokens for each in answers)
        self.speeds.append(tokens / max(each.whole_s for each in answers))


class TimedGuard(Guard):
    """A guard that notes how long its checks take."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(guard.policy, guard.checks)
        self.check_ms: dict[Place, list[float]] = {"prompt": [], "answer": [], "document": []}

    def find(self, text: str, *, place: Place, context: str = "") -> list[Finding]:
        begun_s = time.perf_counter()
        found = super().find(text, place=place, context=context)
        self.check_ms[place].append(1000 * (time.perf_counter() - begun_s))
        return found


def run(
    *,
    settings: Settings,
    rounds: int = ROUNDS,
    tokens: int = TOKENS,
    streams: Sequence[int] = STREAMS,
    on_round: OnRound = lambda done, total: None,
) -> dict[str, Any]:
    """Return both sides' times and speeds for each number of answers at once.

    `overhead` is the share of tokens a second that the guard takes. The model must be installed.
    """
    info = Registry(settings.data_dir).ensure(settings.model, offline=settings.offline)
    engine = open_engine(
        open_model(Path(info.path), sha256=info.sha256), name=info.name, settings=settings
    )
    guard = TimedGuard(open_guard(load_policy(settings)))
    try:
        results = asyncio.run(
            _measure(engine, guard, rounds=rounds, tokens=tokens, streams=streams, told=on_round)
        )
    finally:
        engine.close()
        guard.close()
    return {
        "model": settings.model,
        "tokens": tokens,
        "rounds": rounds,
        "hold": guard.policy.hold.model_dump(),
        "checks": [name for name, _ in guard.describe()],
        "guard_sha256": guard.sha256,
        "streams": results,
        "check_ms": {place: _spread(taken) for place, taken in guard.check_ms.items() if taken},
        "machine": describe_machine(),
        "versions": list_versions("onnxruntime", "numpy"),
    }


async def _measure(
    engine: Engine,
    guard: Guard,
    *,
    rounds: int,
    tokens: int,
    streams: Sequence[int],
    told: OnRound,
) -> dict[str, Any]:
    sides = {"off": Guarding(None), "on": Guarding(guard)}
    results: dict[str, Any] = {}
    done = 0
    for count in streams:
        for guarding in sides.values():  # everything has been used once
            await _ask_all(engine, guarding, round=-1, count=count, tokens=QUICK_TOKENS)
        found = {name: Side() for name in sides}
        for number in range(rounds):
            order = list(sides) if number % 2 else list(sides)[::-1]
            for name in order:
                answers = await _ask_all(
                    engine, sides[name], round=number, count=count, tokens=tokens
                )
                found[name].add(answers)
            done += 1
            told(done, rounds * len(streams))
        results[str(count)] = summarise_sides(found["off"], found["on"])
    for guarding in sides.values():
        guarding.stop()
    return results


def summarise_sides(off: Side, on: Side) -> dict[str, Any]:
    """Return the figures of one number of answers at once; `overhead` is a median over rounds."""
    ratios = [with_ / without for without, with_ in zip(off.speeds, on.speeds, strict=True)]
    return {
        "first_ms_off": _spread([1000 * each.first_s for each in off.answers]),
        "first_ms_on": _spread([1000 * each.first_s for each in on.answers]),
        "tokens_per_s_off": round(statistics.median(off.speeds), 2),
        "tokens_per_s_on": round(statistics.median(on.speeds), 2),
        "overhead": round(1 - statistics.median(ratios), 4),
        "overhead_spread": summarise([1 - ratio for ratio in ratios]).to_json(),
        "stopped": sum(each.stopped for each in on.answers),
        "answers": len(on.answers),
    }


async def _ask_all(
    engine: Engine, guarding: Guarding, *, round: int, count: int, tokens: int
) -> list[Answer]:
    asked = [QUESTIONS[(round * count + at) % len(QUESTIONS)] for at in range(count)]
    return list(
        await asyncio.gather(
            *(_ask(engine, guarding, question=text, tokens=tokens) for text in asked)
        )
    )


async def _ask(engine: Engine, guarding: Guarding, *, question: str, tokens: int) -> Answer:
    messages = [Message(role="user", content=question)]
    owner = f"bench {time.perf_counter_ns()} {id(messages)}"
    begun_s = time.perf_counter()
    await guarding.check_prompt(messages, new=None, owner=owner, session=None)
    sampling = Sampling(temperature=0, max_tokens=tokens, ignore_eos=True)
    generation = await asyncio.to_thread(
        engine.generate, messages, sampling=sampling, lane=owner, owner=owner
    )
    guarded = guarding.guard_answer(generation, messages=messages, owner=owner, session=None)
    first_s, last = 0.0, Delta(text="")
    async for delta in guarded:
        if delta.text and not first_s:
            first_s = time.perf_counter() - begun_s
        last = delta
    if last.usage is None:
        raise EngineError("an answer ended without its usage")
    whole_s = time.perf_counter() - begun_s
    return Answer(
        first_s=first_s or whole_s,
        whole_s=whole_s,
        tokens=last.usage.completion_tokens,
        stopped=last.finish == "content_filter",
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile; with few values the second is near the greatest."""
    if len(values) < 2:
        return {"p50": round(values[0], 2), "p99": round(values[0], 2), "n": len(values)}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 2), "p99": round(cuts[98], 2), "n": len(values)}
