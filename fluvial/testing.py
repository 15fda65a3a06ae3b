"""Doubles for tests: an engine that says what it is told to, and a reader that learns nothing real.

They keep the contracts of the real ones (`fluvial.service.protocol`), need no model file, and
expose what a test wants to hold still or look at. Not for use outside of tests.
"""

import asyncio
import hashlib
import threading
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluvial.adapt.history import History
from fluvial.adapt.keeping import Limits
from fluvial.config import Settings, load
from fluvial.errors import BusyError, ContextLengthError, FluvialError
from fluvial.model.adapter import Adapter, Tensors, list_shapes
from fluvial.model.architecture.declaration import Group
from fluvial.service import Service
from fluvial.service.guarding import open_guarding
from fluvial.service.hub import Hub
from fluvial.service.protocol import Engine, LearnerState
from fluvial.service.record import Record
from fluvial.service.release import Clearance
from fluvial.store import Store
from fluvial.store.audit import AuditLog
from fluvial.types import (
    ChunkScore,
    Delta,
    FinishReason,
    Message,
    ModelInfo,
    Reading,
    Sampling,
    Session,
    Tool,
    Usage,
    Version,
)

MODEL = ModelInfo(
    name="scripted",
    family="none",
    languages=("en",),
    licence="none",
    bytes=0,
    sha256="5c" * 32,
    source="file:none",
    path="none",
)
"""The model that the doubles stand for."""


class ByteTokenizer:
    """One token per byte of UTF-8."""

    vocab_size = 256

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id])

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


@dataclass(frozen=True, kw_only=True)
class Call:
    """What `ScriptedEngine.generate` was asked for, and the versions that were in force
    meanwhile."""

    messages: tuple[Message, ...]
    sampling: Sampling
    lane: str
    adapters: list[str | None] = field(default_factory=list[str | None])
    tools: tuple[Tool, ...] = ()
    owner: str | None = None
    deadline_s: float | None = None


class ScriptedEngine:
    """Says `reply(messages)`, a word at a time.

    Set `delay_s` to slow it, `limit_waiting` to make it refuse, `fail_after` to make it fail after
    that many words. `active` counts the answers that hold a slot. `calls` keeps what it was asked.
    """

    name = MODEL.name

    def __init__(self, *, context_tokens: int = 2048) -> None:
        self.forgotten: list[str] = []
        self.forgotten_adapters: list[tuple[str, str]] = []
        self.context_tokens = context_tokens
        self.tokenizer = ByteTokenizer()
        self.reply: Callable[[Sequence[Message]], str] = lambda messages: (
            f"You said: {messages[-1].content}"
        )
        self.delay_s = 0.0
        self.fail_after: int | None = None
        self.failure: Exception = RuntimeError("the decoder broke")
        self.limit_waiting: int | None = None
        self.calls: list[Call] = []
        self.active: set[ScriptedGeneration] = set()
        self.closed = False

    def count(self, messages: Sequence[Message]) -> int:
        return sum(len(message.content.encode()) + 4 for message in messages)

    def forget(self, lane: str) -> None:
        self.forgotten.append(lane)

    def forget_adapters(self, keys: Collection[str], *, owner: str) -> None:
        self.forgotten_adapters += [(key, owner) for key in keys]

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        adapter: Callable[[], Adapter | None] = lambda: None,
        tools: Sequence[Tool] = (),
        owner: str | None = None,
        deadline_s: float | None = None,
    ) -> "ScriptedGeneration":
        prompt_tokens = self.count(messages)
        if prompt_tokens + (sampling.max_tokens or 1) > self.context_tokens:
            raise ContextLengthError(
                f"your messages are {prompt_tokens} tokens; at most {self.context_tokens} fit",
                param="messages",
            )
        if self.limit_waiting is not None and len(self.active) >= self.limit_waiting:
            raise BusyError("the queue is full; try again in a moment", retry_after_s=2.5)
        call = Call(
            messages=tuple(messages),
            sampling=sampling,
            lane=lane,
            tools=tuple(tools),
            owner=owner,
            deadline_s=deadline_s,
        )
        self.calls.append(call)
        generation = ScriptedGeneration(
            self,
            call=call,
            adapter=adapter,
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=0),
        )
        self.active.add(generation)
        return generation

    def generate_many(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: Sampling,
        lane: str,
        tools: Sequence[Tool] = (),
        owner: str | None = None,
        deadline_s: float | None = None,
    ) -> "list[ScriptedGeneration]":
        return [
            self.generate(
                messages,
                sampling=sampling,
                lane=lane,
                tools=tools,
                owner=owner,
                deadline_s=deadline_s,
            )
            for _ in range(n)
        ]

    def close(self) -> None:
        self.closed = True


class ScriptedGeneration:
    """An answer of a `ScriptedEngine`."""

    def __init__(
        self,
        engine: ScriptedEngine,
        *,
        call: Call,
        adapter: Callable[[], Adapter | None],
        usage: Usage,
    ) -> None:
        self._engine = engine
        self._call = call
        self._adapter = adapter
        self._usage = usage
        self._words = engine.reply(call.messages).split(" ")
        self._said = 0
        self._begun_s = time.monotonic()
        self._cancelled = threading.Event()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self not in self._engine.active:
            raise StopAsyncIteration
        await self._pause()
        if self._cancelled.is_set():
            return self._end("cancelled")
        if time.monotonic() - self._begun_s >= (self._call.deadline_s or float("inf")):
            return self._end("deadline")
        if self._said == self._engine.fail_after:
            self._engine.active.discard(self)
            raise self._engine.failure
        if self._said == len(self._words):
            return self._end("stop")
        if self._said == self._call.sampling.max_tokens:
            return self._end("length")
        adapter = await asyncio.to_thread(self._adapter)
        self._call.adapters.append(adapter.key if adapter else None)
        word = self._words[self._said]
        self._said += 1
        return Delta(text=word if self._said == 1 else f" {word}")

    def cancel(self) -> None:
        self._cancelled.set()

    async def _pause(self) -> None:
        end_s = time.monotonic() + self._engine.delay_s
        while time.monotonic() < end_s and not self._cancelled.is_set():
            await asyncio.sleep(min(0.01, self._engine.delay_s))

    def _end(self, finish: FinishReason) -> Delta:
        self._engine.active.discard(self)
        return Delta(
            text="", finish=finish, usage=replace(self._usage, completion_tokens=self._said)
        )


@dataclass(frozen=True)
class ToyLayer:
    """A block with one linear of width 4, and no gain."""

    groups: tuple[Group, ...] = (Group(name="o", inputs=4, parts=(("o", 4),)),)
    gain_width: int = 0


@dataclass(frozen=True)
class ToyDeclaration:
    """What an adapter must know of the model that the doubles stand for."""

    layers: tuple[ToyLayer, ...] = (ToyLayer(),)


def make_tensors(seed: int, *, rank: int = 1) -> dict[str, NDArray[np.float32]]:
    """Make an adapter of the toy model; the same seed gives the same one."""
    rng = np.random.Generator(np.random.PCG64(seed))
    shapes = list_shapes(ToyDeclaration(), rank=rank)
    return {
        name: rng.uniform(-0.1, 0.1, shape).astype(np.float32) for name, shape in shapes.items()
    }


def measure_toy(tensors: Tensors) -> float:
    """Measure an adapter of the toy model: its change squared, which is how drift grows."""
    change = tensors["layers.0.o.a"] @ tensors["layers.0.o.b"]
    return float((change**2).sum())


def score_toy(ids: Sequence[int], adapter: Adapter | None) -> list[float]:
    """Score a text: 1 nat a token under the base, less under larger adapters."""
    return [1.0 / (1.0 + (0.0 if adapter is None else measure_toy(adapter.tensors)))] * len(ids)


def open_toy_history(store: Store, **options: Any) -> History:
    """Open the history of the toy model's adapters."""
    return History(store, declaration=ToyDeclaration(), checkpoint=MODEL.sha256, **options)


class ScriptedReader:
    """Reads each text in chunks of 64 bytes on a thread of its own, and saves one version at its
    end.

    While `hold` is set it stays before the next chunk, so that a test can look at what is under
    way.
    """

    def __init__(
        self,
        *,
        store: Store,
        history: History,
        on_event: Callable[[str, Session, object], None],
    ) -> None:
        self._store = store
        self._history = history
        self._on_event = on_event
        self._changed = threading.Condition()
        self._closing = False
        self._cancelled: set[str] = set()
        self._current: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.hold = False

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def cancel(self, reading: Reading) -> None:
        with self._changed:
            self._cancelled.add(reading.id)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._current != reading.id)
        current = self._store.unfinished_readings(model=MODEL.name)
        if any(each.id == reading.id for _, each in current):
            self._store.update_reading(reading, status="cancelled")

    def release(self) -> None:
        """Read on after a `hold`."""
        self.hold = False
        self.wake()

    def live(self, reading: Reading) -> Reading:
        return reading

    def speed(self, reading_id: str) -> float | None:
        return 100.0 if reading_id == self._current else None

    def _run(self) -> None:
        while not self._closing:
            waiting = self._store.unfinished_readings(model=MODEL.name)
            waiting = [each for each in waiting if each[1].id not in self._cancelled]
            if waiting:
                self._read(*waiting[0])
            with self._changed:
                if not waiting and not self._closing:
                    self._changed.wait(0.05)

    def _read(self, session: Session, reading: Reading) -> None:
        self._current = reading.id
        with suppress(FluvialError):  # the session was deleted
            self._read_chunks(session, reading)
        with self._changed:
            self._current = None
            self._changed.notify_all()

    def _read_chunks(self, session: Session, reading: Reading) -> None:
        data = self._store.reading_text(reading).encode()
        reading = self._store.update_reading(reading, status="reading", tokens_total=len(data))
        for start in range(0, len(data), 64):
            self._on_event("reading", session, reading)
            with self._changed:
                self._changed.wait_for(
                    lambda: not self.hold or self._closing or reading.id in self._cancelled
                )
            if self._closing or reading.id in self._cancelled:
                return
            chunk = data[start : start + 64]
            score = ChunkScore(
                session=session.id,
                reading=reading.id,
                start=start,
                tokens=len(chunk),
                bytes=len(chunk),
                frozen_nats=1.0 * len(chunk),
                adapted_nats=0.5 * len(chunk),
                version=session.version,
                learned=session.learning == "on",
                created_at=time.time(),
                reason="" if session.learning == "on" else "frozen",
                seconds=0.25,
            )
            self._on_event("score", session, (self._store.append_score(score), score))
        if session.learning == "on":
            session, version = self._learn(session, reading, data)
            self._on_event("version", session, version)
        else:
            self._store.update_reading(reading, status="done", tokens_read=len(data))
        self._on_event("session", session, session)
        self._on_event("reading", session, self._store.reading(session, reading.id))

    def _learn(self, session: Session, reading: Reading, data: bytes) -> tuple[Session, Version]:
        tensors = make_tensors(zlib.crc32(data) + session.version)
        return self._history.save(
            session,
            tensors,
            reading=reading,
            tokens_read=len(data),
            status="done",
            tokens_learned=len(data),
            updates=1,
            drift=measure_toy(tensors),
            text_sha256=hashlib.sha256(data).hexdigest(),
            score_before_bpb=0.5,
            frozen_bpb=1.0,
            rule='{"rank":1}',
        )


class ScriptedLearner:
    """A learner process that is not there."""

    state: LearnerState = "ready"


@dataclass(kw_only=True)
class Rig:
    """A service over a real store and doubles of the rest."""

    service: Service
    engine: ScriptedEngine
    store: Store
    history: History
    reader: ScriptedReader
    hub: Hub


def make_rig(
    data_dir: Path, *, settings: Settings | None = None, running: Engine | None = None
) -> Rig:
    """Make a service for a test; the caller closes `rig.service`.

    `running` is an engine to stand in the place of the scripted one.
    """
    settings = settings or load(overrides={"data_dir": data_dir})
    hub = Hub()
    audit = AuditLog.open(data_dir)
    record = Record(audit)
    store = Store.open(data_dir, learning=settings.learning)
    engine = ScriptedEngine()
    history = open_toy_history(
        store,
        limits=Limits.from_settings(settings),
        on_drop=engine.forget_adapters,
        on_discard=record.note_discard,
    )
    reader = ScriptedReader(store=store, history=history, on_event=record.listen(hub.publish))
    service = Service(
        settings=settings,
        model=MODEL,
        engine=running or engine,
        store=store,
        history=history,
        reader=reader,
        learner=ScriptedLearner(),
        hub=hub,
        audit=audit,
        clearance=Clearance(subjects={"weights": MODEL.sha256}),
        guarding=open_guarding(settings, audit=audit),
        installed=lambda: [MODEL],
        score=score_toy,
        measure=measure_toy,
    )
    return Rig(service=service, engine=engine, store=store, history=history, reader=reader, hub=hub)
