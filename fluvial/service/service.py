"""The face of Fluvial: sessions, answers, readings, versions, as people use them.

Methods that are not `async` may block on the disk and belong in a worker thread; they may be called
from any. Those that are `async` belong on the event loop, and there only.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fluvial.config import Settings
from fluvial.errors import ConflictError, InputError, NotFoundError, TooLargeError
from fluvial.service.chat import Chat
from fluvial.service.hub import Hub
from fluvial.service.protocol import Engine, History, Learner, LearnerState, Reader
from fluvial.service.state import ReadingState, SessionState, VersionList, is_active, is_unfinished
from fluvial.service.tool import NO_TOOLS, ToolUse
from fluvial.service.turn import Turn
from fluvial.store import UNSET, Store, Unset
from fluvial.types import (
    ChunkScore,
    Learning,
    Message,
    ModelInfo,
    Reading,
    Sampling,
    Session,
    StoredMessage,
)

NAME_CHARS = 255
"""Longest name of a document, and longest title of a session."""


# What could make a name look like another one: controls, and marks that turn the writing direction.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Service:
    """One model served to many sessions. `close` it once; nothing works after that."""

    def __init__(
        self,
        *,
        settings: Settings,
        model: ModelInfo,
        engine: Engine,
        store: Store,
        history: History,
        reader: Reader,
        learner: Learner,
        hub: Hub,
        installed: Callable[[], Sequence[ModelInfo]],
    ) -> None:
        self.settings = settings
        self.model = model
        self.hub = hub
        self._engine = engine
        self._store = store
        self._history = history
        self._reader = reader
        self._learner = learner
        self._installed = installed
        self._chat = Chat(
            settings=settings, engine=engine, store=store, history=history, reader=reader, hub=hub
        )
        self._counts: dict[str, tuple[str, int]] = {}

    # The whole

    @property
    def learner_state(self) -> LearnerState:
        """Tell how the learner process is."""
        return self._learner.state

    def models(self) -> list[ModelInfo]:
        """List the model being served, then the others that are installed."""
        others = [model for model in self._installed() if model.sha256 != self.model.sha256]
        return [self.model, *others]

    def start(self) -> None:
        """Begin to read what waits to be read."""
        self._reader.start()

    async def drain(self) -> None:
        """End all event streams and all answers; what was written of them is stored."""
        self.hub.close()
        await self._chat.close()

    def close(self) -> None:
        """Stop the reader, the engine and the store, in this order."""
        self._reader.close()
        self._engine.close()
        self._store.close()

    # Sessions

    def create_session(self, *, owner: str, title: str = "") -> Session:
        """Begin a conversation. An empty title is replaced by one made from its first message."""
        return self._store.create_session(
            owner=owner,
            title=_check_name(title, param="title"),
            model=self.model.name,
            checkpoint=self.model.sha256,
            learning="on" if self.settings.learning else "frozen",
        )

    def session(self, id: str, *, owner: str) -> Session:
        """Find a session of `owner`. Raises NotFoundError."""
        return self._store.session(id, owner=owner)

    def sessions(self, *, owner: str, limit: int, before: float | None) -> list[SessionState]:
        """List sessions, newest first, without counting their tokens."""
        found = self._store.sessions(owner=owner, limit=limit, before=before)
        unfinished = self._store.unfinished_readings(model=self.model.name)
        reading = {session.id for session, each in unfinished if is_active(each)}
        return [
            self._state(session, reading=session.id in reading, used_tokens=None)
            for session in found
        ]

    def session_state(self, session: Session) -> SessionState:
        """Tell how a session is now."""
        readings = self._store.readings(session)
        return self._state(
            session,
            reading=any(is_active(reading) for reading in readings),
            used_tokens=self._count(session) if self._is_available(session) else None,
        )

    def update_session(
        self, session: Session, *, title: str | None = None, learning: Learning | None = None
    ) -> Session:
        """Rename a session, or freeze or unfreeze its learning."""
        if title is not None:
            title = _check_name(title, param="title")
        session = self._store.update_session(session, title=title, learning=learning)
        self._reader.wake()
        self.hub.publish("session", session, session)
        return session

    async def delete_session(self, session: Session) -> None:
        """Delete a session and everything in it: messages, readings, versions, files."""
        await self._chat.stop(session)
        self._chat.claim(session)
        try:
            await asyncio.to_thread(self._delete, session)
        finally:
            self._chat.release(session)
        self.hub.end(session.id)

    # Messages

    def messages(self, session: Session) -> list[StoredMessage]:
        """List the messages of a session in order."""
        return self._store.messages(session)

    async def answer_alone(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        owner: str,
        lane: str,
        n: int = 1,
        use: ToolUse = NO_TOOLS,
    ) -> list[Turn]:
        """Answer a conversation that the client keeps. See `Chat.answer_alone`."""
        return await self._chat.answer_alone(
            messages, sampling=sampling, owner=owner, lane=lane, n=n, use=use
        )

    async def answer(
        self,
        session: Session,
        messages: Sequence[Message],
        *,
        parent: str | None | Unset = UNSET,
        sampling: Sampling,
    ) -> Turn:
        """Answer inside a session. See `Chat.answer`."""
        self._require_available(session)
        return await self._chat.answer(session, messages, parent=parent, sampling=sampling)

    async def stop(self, session: Session) -> None:
        """Stop the answer being written, if there is one, and return when it is stored."""
        await self._chat.stop(session)

    # Readings

    def add_document(self, session: Session, *, name: str, text: str) -> ReadingState:
        """Give a session a text to read in the background.

        Raises InputError when the text is blank or the name unfit, TooLargeError over the limit,
        ConflictError when the session's model is not the one served.
        """
        self._require_available(session)
        name = _check_name(name, param="name")
        limit_bytes = self.settings.max_document_bytes
        if len(text) > limit_bytes or len(text.encode(errors="replace")) > limit_bytes:
            raise TooLargeError(f"the text is over the limit of {limit_bytes} bytes", param="text")
        if not text.strip():
            raise InputError(
                f"{name or 'the text'} is empty: there is nothing to read", param="text"
            )
        if not name:
            raise InputError("give the text a name", param="name")
        reading = self._store.create_reading(session, kind="document", name=name, text=text)
        self._reader.wake()
        session = self._now(session)
        if not session.title:
            session = self._store.update_session(session, title=name)
        self.hub.publish("reading", session, reading)
        self.hub.publish("session", session, session)
        return self.reading_state(reading)

    def readings(self, session: Session) -> list[ReadingState]:
        """List what a session was given to read, in order."""
        return [self.reading_state(reading) for reading in self._store.readings(session)]

    def reading_state(self, reading: Reading) -> ReadingState:
        """Tell how a reading is now."""
        if is_unfinished(reading):
            reading = self._reader.live(reading)
        speed = self._reader.speed(reading.id) if reading.status == "reading" else None
        has_text = self._store.has_reading_text(reading)
        return ReadingState(reading=reading, has_text=has_text, tokens_per_s=speed)

    def remove_reading(self, session: Session, id: str) -> ReadingState:
        """Stop a reading if it is under way, and remove its text. What was learned stays."""
        reading = self._stop_reading(session, self._store.reading(session, id))
        self._store.remove_reading_text(reading)
        self.hub.publish("reading", session, reading)
        self.hub.publish("session", session, session)
        return self.reading_state(reading)

    def scores(self, session: Session, *, after: int) -> list[tuple[int, ChunkScore]]:
        """List the evidence with an index above `after`, in the order it was read."""
        return self._store.scores(session, after=after)

    # Versions

    def versions(self, session: Session) -> VersionList:
        """List the versions of a session, oldest first, without the base."""
        versions = self._store.versions(session)
        current = self._store.session(session.id, owner=session.owner).version
        return VersionList(current=current, versions=versions)

    def restore(self, session: Session, number: int) -> Session:
        """Put a version (0: the base) in force; readings under way stop, or they would learn on."""
        if number != 0:
            self._store.version(session, number)
        self._stop_readings(session)
        session = self._history.restore(self._now(session), number)
        self.hub.publish("session", session, session)
        return session

    def forget(self, session: Session) -> Session:
        """Remove all versions and scores of a session; readings under way stop."""
        self._stop_readings(session)
        session = self._history.forget(self._now(session))
        self.hub.publish("session", session, session)
        return session

    def delete_version(self, session: Session, number: int) -> None:
        """Delete a version. Raises ConflictError when it is in force."""
        session = self._now(session)
        self._store.version(session, number)
        if session.version == number:
            raise ConflictError(
                f"version {number} is in force; restore another one first",
                code="version_in_force",
            )
        self._history.delete(session, number)
        self.hub.publish("session", session, session)

    def version_file(self, session: Session, number: int) -> Path:
        """Find the safetensors file of a version. Raises NotFoundError."""
        self._store.version(session, number)
        path = self._store.version_path(session, number)
        if not path.is_file():
            raise NotFoundError(f"the file of version {number} is missing", code="version_missing")
        return path

    # Below

    def _now(self, session: Session) -> Session:
        return self._store.session(session.id, owner=session.owner)

    def _is_available(self, session: Session) -> bool:
        return session.checkpoint == self.model.sha256

    def _require_available(self, session: Session) -> None:
        if not self._is_available(session):
            raise ConflictError(
                f"this session belongs to the model {session.model}, and {self.model.name} is "
                f"served; start with --model {session.model}, or begin a new session",
                code="model_not_served",
            )

    def _state(self, session: Session, *, reading: bool, used_tokens: int | None) -> SessionState:
        return SessionState(
            session=session,
            busy=self._chat.is_busy(session.id),
            reading=reading,
            available=self._is_available(session),
            used_tokens=used_tokens,
            limit_tokens=self._engine.context_tokens,
        )

    def _count(self, session: Session) -> int:
        """Count the tokens of the conversation; kept until a message is added or finished."""
        stored = [each for each in self._store.messages(session) if each.content]
        if not stored:
            return 0
        key = f"{len(stored)} {stored[-1].id} {stored[-1].finish} {len(stored[-1].content)}"
        known, tokens = self._counts.get(session.id, ("", 0))
        if known == key:
            return tokens
        tokens = self._engine.count([Message(role=m.role, content=m.content) for m in stored])
        self._counts[session.id] = (key, tokens)
        return tokens

    def _delete(self, session: Session) -> None:
        self._stop_readings(session)
        self._store.delete_session(session)
        self._engine.forget(session.id)
        self._counts.pop(session.id, None)

    def _stop_readings(self, session: Session) -> None:
        for reading in self._store.readings(session):
            if is_unfinished(reading):
                stopped = self._stop_reading(session, reading)
                self.hub.publish("reading", session, stopped)

    def _stop_reading(self, session: Session, reading: Reading) -> Reading:
        if not is_unfinished(reading):
            return reading
        self._reader.cancel(reading)
        reading = self._store.reading(session, reading.id)
        if is_unfinished(reading):
            reading = self._store.update_reading(reading, status="cancelled")
        return reading


def _check_name(name: str, *, param: str) -> str:
    name = " ".join(name.split())
    if len(name) > NAME_CHARS:
        raise InputError(f"{param} has {len(name)} characters; at most {NAME_CHARS}", param=param)
    if _CONTROLS.search(name):
        raise InputError(f"{param} holds control characters", param=param)
    return name
