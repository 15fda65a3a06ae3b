"""Measure how long a conversation waits for its first token, alone and while a text is read.

The whole service runs as a server runs it, in a data folder of its own: engine, store, reader, and
the learner in its process. Each round asks alone first, then while another session reads and
learns, then lets the reading go on for as long without a question; so a machine whose speed drifts
treats all three alike.
"""

import asyncio
import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.spread import summarise
from fluvial.bench.text import read_text
from fluvial.config import Settings
from fluvial.errors import InputError, LearnerError
from fluvial.service import Service
from fluvial.service.hub import Event, Listener
from fluvial.service.start import open_service
from fluvial.types import ChunkScore, Message, Reading, Sampling, Usage

OWNER = "bench"
ROUNDS, QUICK_ROUNDS = 20, 3
QUESTIONS = 2
QUESTION_WORDS = 160
"""Some 200 tokens with the template around them; the exact number is reported."""
ANSWER = Sampling(temperature=0, max_tokens=4, ignore_eos=True)
SHARED_FOLDERS = ("models", "graphs")
WORDS = (
    *("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world"),
    *("school", "state", "family", "student", "group", "country", "problem", "hand", "part"),
    *("place", "case", "week", "company", "system", "work", "number", "night", "point", "home"),
)

OnRound = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One question: seconds until the first piece of its answer came, and what it took."""

    waited_s: float
    usage: Usage


@dataclass(kw_only=True)
class Round:
    """What one round found; speeds in tokens a second."""

    idle: list[Sample] = field(default_factory=list)
    busy: list[Sample] = field(default_factory=list)
    beside_tokens: int = 0
    beside_s: float = 0.0
    quiet_tokens: int = 0
    quiet_s: float = 0.0

    @property
    def ratio(self) -> float:
        return _find_median(self.busy) / _find_median(self.idle)


def run(
    file: Path,
    *,
    settings: Settings,
    rounds: int = ROUNDS,
    questions: int = QUESTIONS,
    on_round: OnRound = lambda done, total: None,
) -> dict[str, Any]:
    """Return the times to the first token, and the speeds of reading, with the spread over rounds.

    Each round reads another part of `file`, which must be long enough that a part keeps the learner
    busy; a part that ends is read again. The model must be installed. Raises InputError for a file
    that can't be read as UTF-8 or is empty, or where `learning` is off.
    """
    if not settings.learning:
        raise InputError("this measures learning, which is off in the settings", param="learning")
    parts = cut(read_text(file), rounds)
    with _borrow(settings) as borrowed:
        service = open_service(borrowed)
        try:
            found = asyncio.run(_measure(service, parts, questions=questions, on_round=on_round))
        finally:
            service.close()
    return {
        "model": settings.model,
        "file": str(file),
        "questions": questions,
        **summarise_rounds(found),
        "threads": settings.threads,
        "learner_threads": settings.learner_threads,
        "machine": describe_machine(),
        "versions": list_versions("onnxruntime", "torch"),
    }


def cut(text: str, count: int) -> list[str]:
    """Cut a text into `count` parts of one length, the rest left over; a short one is repeated."""
    size = len(text) // count
    parts = [text[number * size : (number + 1) * size] for number in range(count)]
    return [part if part.strip() else text for part in parts]


def write_question(rng: random.Random) -> str:
    """Write a question that begins like no other: nothing of it is in a cache."""
    words = " ".join(rng.choices(WORDS, k=QUESTION_WORDS))
    return f"{words}. Which of these words is the longest?"


def summarise_rounds(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return the figures: medians over all questions, speeds over all rounds, and their spread."""
    idle_ms, busy_ms = (
        [1000 * each.waited_s for samples in side for each in samples]
        for side in ([each.idle for each in rounds], [each.busy for each in rounds])
    )
    usages = [each.usage for one in rounds for each in [*one.idle, *one.busy]]
    return {
        "rounds": len(rounds),
        "prompt_tokens": statistics.median(each.prompt_tokens for each in usages),
        "cached_tokens": max(each.cached_tokens for each in usages),
        "idle_ms": round(statistics.median(idle_ms), 1),
        "reading_ms": round(statistics.median(busy_ms), 1),
        "ratio": round(statistics.median(busy_ms) / statistics.median(idle_ms), 3),
        "spread": {
            "idle_ms": summarise(idle_ms).to_json(),
            "reading_ms": summarise(busy_ms).to_json(),
            "ratio": summarise([each.ratio for each in rounds]).to_json(),
        },
        "reading_tps": _divide(
            sum(each.quiet_tokens for each in rounds), sum(each.quiet_s for each in rounds)
        ),
        "reading_beside_tps": _divide(
            sum(each.beside_tokens for each in rounds), sum(each.beside_s for each in rounds)
        ),
    }


@contextlib.contextmanager
def _borrow(settings: Settings) -> Generator[Settings]:
    """Yield settings with a new data folder that has the models and graphs of the one given."""
    with tempfile.TemporaryDirectory(prefix="fluvial-") as folder:
        for name in SHARED_FOLDERS:
            shared = settings.data_dir.resolve() / name
            shared.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).symlink_to(shared, target_is_directory=True)
        yield settings.model_copy(update={"data_dir": Path(folder), "offline": True})


async def _measure(
    service: Service, parts: Sequence[str], *, questions: int, on_round: OnRound
) -> list[Round]:
    service.start()
    rng = random.Random(0)  # noqa: S311  words for questions, nothing secret
    try:
        await _warm_up(service, rng, parts[0])
        found: list[Round] = []
        for number, part in enumerate(parts):
            found.append(await _run_round(service, rng, part, questions=questions))
            on_round(number + 1, len(parts))
    finally:
        await service.drain()
    return found


async def _warm_up(service: Service, rng: random.Random, part: str) -> None:
    """Have everything been used once: the learner is ready, the template's beginning is cached."""
    async with _Reading(service, part):
        await _ask(service, rng)


async def _run_round(service: Service, rng: random.Random, part: str, *, questions: int) -> Round:
    found = Round(idle=[await _ask(service, rng) for _ in range(questions)])
    async with _Reading(service, part) as reading:
        begun_s, tokens = time.perf_counter(), reading.tokens
        found.busy = [await _ask(service, rng) for _ in range(questions)]
        found.beside_s = time.perf_counter() - begun_s
        found.beside_tokens = reading.tokens - tokens
        begun_s, tokens = time.perf_counter(), reading.tokens
        await asyncio.sleep(found.beside_s)
        found.quiet_s = time.perf_counter() - begun_s
        found.quiet_tokens = reading.tokens - tokens
        reading.check()
    return found


async def _ask(service: Service, rng: random.Random) -> Sample:
    """Ask in a conversation of its own, and wait until the answer is stored."""
    session = await asyncio.to_thread(service.create_session, owner=OWNER)
    session = await asyncio.to_thread(service.update_session, session, learning="frozen")
    question = Message(role="user", content=write_question(rng))
    begun_s = time.perf_counter()
    turn = await service.answer(session, [question], sampling=ANSWER)
    waited_s, usage = 0.0, None
    async for delta in turn:
        if delta.text and not waited_s:
            waited_s = time.perf_counter() - begun_s
        usage = delta.usage or usage
    await service.delete_session(session)
    return Sample(
        waited_s=waited_s or time.perf_counter() - begun_s,
        usage=usage or Usage(prompt_tokens=0, completion_tokens=0),
    )


class _Reading:
    """A session that reads and learns until the end of the block; its first chunk has been read."""

    def __init__(self, service: Service, text: str) -> None:
        self.tokens = 0
        self._service, self._text = service, text
        self._begun = asyncio.Event()
        self._error: str | None = None

    async def __aenter__(self) -> "_Reading":
        self._session = await asyncio.to_thread(self._service.create_session, owner=OWNER)
        self._listener = self._service.hub.listen(self._session.id)
        self._watcher = asyncio.create_task(self._watch(self._listener))
        await self._queue()
        await self._begun.wait()
        self.check()
        return self

    async def __aexit__(self, *details: object) -> None:
        self._watcher.cancel()
        self._listener.close()
        await self._service.delete_session(self._session)

    def check(self) -> None:
        """Raise LearnerError if the reading failed."""
        if self._error is not None:
            raise LearnerError(f"the reading beside the conversation failed: {self._error}")

    async def _queue(self) -> None:
        await asyncio.to_thread(
            self._service.readings.add, self._session, name="text", text=self._text
        )

    async def _watch(self, listener: Listener) -> None:
        async for event in listener:
            await self._note(event)

    async def _note(self, event: Event) -> None:
        record = event.record
        if event.kind == "score" and isinstance(record, tuple):
            score: ChunkScore = record[1]
            self.tokens += score.tokens
            self._begun.set()
        elif isinstance(record, Reading) and record.status == "done":
            await self._queue()
        elif isinstance(record, Reading) and record.status == "failed":
            self._error = record.error or "no reason was given"
            self._begun.set()


def _find_median(samples: Sequence[Sample]) -> float:
    return statistics.median(each.waited_s for each in samples)


def _divide(tokens: int, seconds: float) -> float:
    return round(tokens / seconds, 2) if seconds else 0.0
