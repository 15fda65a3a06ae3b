"""Doubles for tests: an engine that says what it is told to, and a reader that learns nothing real.

They keep the contracts of the real ones (`fluvial.service.protocol`), need no model file, and
expose what a test wants to hold still or look at. Not for use outside of tests.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np

from fluvial.config import Settings, load
from fluvial.errors import BusyError, ContextLengthError, FluvialError
from fluvial.model.adapter import Adapter
from fluvial.service import Service
from fluvial.service.hub import Hub
from fluvial.service.protocol import Engine, LearnerState
from fluvial.store import Store, write_atomically
from fluvial.types import (
    BASE_VERSION,
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


class ScriptedHistory:
    """Versions without tensors worth the name: rows in the store, a few bytes in the file."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def adapter(self, session: Session) -> Adapter | None:
        if session.version == BASE_VERSION:
            return None
        return Adapter(f"{session.id}/{session.version}", {"a": np.zeros(1, np.float32)})

    def save(self, session: Session, *, reading: Reading, tokens_read: int) -> Session:
        number = self._store.next_version(session)
        write_atomically(self._store.version_path(session, number), b"tensors")
        version = Version(
            session=session.id,
            number=number,
            parent=session.version,
            reading=reading.id,
            tokens_learned=tokens_read,
            updates=1,
            drift=0.01,
            bytes=7,
            sha256="0" * 64,
            created_at=time.time(),
        )
        return self._store.add_version(
            version, reading=reading, tokens_read=tokens_read, status="done"
        )

    def restore(self, session: Session, number: int) -> Session:
        return self._store.update_session(session, version=number)

    def delete(self, session: Session, number: int) -> None:
        self._store.delete_version(session, number)

    def forget(self, session: Session) -> Session:
        return self._store.forget(session)


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
        history: ScriptedHistory,
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
            )
            self._on_event("score", session, (self._store.append_score(score), score))
        session = self._history.save(session, reading=reading, tokens_read=len(data))
        version = self._store.version(session, session.version)
        self._on_event("version", session, version)
        self._on_event("session", session, session)
        self._on_event("reading", session, self._store.reading(session, reading.id))


class ScriptedLearner:
    """A learner process that is not there."""

    state: LearnerState = "ready"


@dataclass(kw_only=True)
class Rig:
    """A service over a real store and doubles of the rest."""

    service: Service
    engine: ScriptedEngine
    store: Store
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
    store = Store.open(data_dir)
    history = ScriptedHistory(store)
    reader = ScriptedReader(store=store, history=history, on_event=hub.publish)
    engine = ScriptedEngine()
    service = Service(
        settings=settings,
        model=MODEL,
        engine=running or engine,
        store=store,
        history=history,
        reader=reader,
        learner=ScriptedLearner(),
        hub=hub,
        installed=lambda: [MODEL],
    )
    return Rig(service=service, engine=engine, store=store, reader=reader, hub=hub)
