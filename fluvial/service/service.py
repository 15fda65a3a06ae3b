"""The face of Fluvial: sessions, answers, readings, versions, as people use them.

Methods that are not `async` may block on the disk and belong in a worker thread; they may be called
from any. Those that are `async` belong on the event loop, and there only.
"""

import asyncio
from collections.abc import Callable, Sequence

from fluvial.adapt.bounding import Measure
from fluvial.adapt.history import History
from fluvial.config import Settings
from fluvial.model.opening import AnyCheckpoint
from fluvial.service.canary import Canaries
from fluvial.service.chat import Chat
from fluvial.service.comparison import Comparisons, Score
from fluvial.service.exchange import Exchange
from fluvial.service.expiry import Expiry
from fluvial.service.guarding import Guarding, recall
from fluvial.service.hub import Hub
from fluvial.service.merging import Merging
from fluvial.service.model import Served
from fluvial.service.name import check_name
from fluvial.service.protocol import Audit, Engine, Learner, LearnerState, Reader
from fluvial.service.publication import Publications
from fluvial.service.reading import Readings
from fluvial.service.record import Record
from fluvial.service.release import Clearance
from fluvial.service.state import SessionState, is_active
from fluvial.service.tool import NO_TOOLS, ToolUse
from fluvial.service.turn import Turn
from fluvial.service.version import Versions
from fluvial.store import UNSET, Store, Unset
from fluvial.types import (
    BASE_VERSION,
    Learning,
    Message,
    ModelInfo,
    Sampling,
    Session,
    StoredMessage,
)


class Service:
    """One model served to many sessions. `close` it once; nothing works after that.

    Sessions and answers are here; `readings`, `versions` and what is done with versions
    (`publications`, `merging`, `exchange`, `comparisons`) have objects of their own.
    """

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
        audit: Audit,
        guarding: Guarding,
        clearance: Clearance,
        installed: Callable[[], Sequence[ModelInfo]],
        checkpoint: AnyCheckpoint | None = None,
        score: Score | None = None,
        measure: Measure | None = None,
        canaries: Canaries | None = None,
    ) -> None:
        """Join the parts.

        `checkpoint` is the model served, for exchanging its adapters with others. `score` scores a
        text under an adapter; `measure` measures an adapter's drift. Where one is None, what needs
        it is refused, or told as not measured.
        """
        self.settings = settings
        self.model = model
        self.hub = hub
        self.audit = audit
        self.record = record = Record(audit)
        self.guarding = guarding
        self.clearance = clearance
        self._engine = engine
        self._store = store
        self._history = history
        self._reader = reader
        self._learner = learner
        self._installed = installed
        self._canaries = canaries
        self._counts: dict[str, tuple[str, int]] = {}
        self._served = served = Served(model)
        self._chat = Chat(
            settings=settings,
            engine=engine,
            store=store,
            history=history,
            reader=reader,
            hub=hub,
            guarding=guarding,
            require=self._require_covered,
        )
        self._expiry = Expiry(store=store, history=history, hub=hub)
        self.readings = Readings(
            settings=settings,
            served=served,
            store=store,
            reader=reader,
            hub=hub,
            guarding=guarding,
        )
        self.versions = versions = Versions(
            settings=settings,
            store=store,
            history=history,
            readings=self.readings,
            hub=hub,
            record=record,
            is_busy=self._chat.is_busy,
        )
        self.publications = Publications(
            served=served, store=store, history=history, versions=versions, record=record
        )
        self.merging = Merging(
            settings=settings,
            served=served,
            store=store,
            history=history,
            versions=versions,
            measure=measure,
        )
        self.exchange = Exchange(
            settings=settings,
            served=served,
            history=history,
            versions=versions,
            record=record,
            checkpoint=checkpoint,
            measure=measure,
        )
        self.comparisons = Comparisons(
            settings=settings,
            served=served,
            tokenizer=engine.tokenizer,
            history=history,
            versions=versions,
            score=score,
        )

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
        """Begin to read what waits to be read, and to delete what has passed its time."""
        self._reader.start()
        self._expiry.start()
        if self._canaries is not None:
            self._canaries.start()

    async def drain(self) -> None:
        """End all event streams and all answers; what was written of them is stored."""
        self.hub.close()
        await self._chat.close()

    def close(self) -> None:
        """Stop the reader, the engine and the store, in this order."""
        self._expiry.close()
        self._reader.close()
        if self._canaries is not None:
            self._canaries.close()
        self._engine.close()
        self.guarding.close()
        self._store.close()

    # Sessions

    def create_session(self, *, owner: str, title: str = "") -> Session:
        """Begin a conversation. An empty title is replaced by one made from its first message."""
        return self._store.create_session(
            owner=owner,
            title=check_name(title, param="title"),
            model=self.model.name,
            checkpoint=self.model.sha256,
            learning="on",
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
            used_tokens=self._count(session) if self._served.has(session) else None,
        )

    def update_session(
        self, session: Session, *, title: str | None = None, learning: Learning | None = None
    ) -> Session:
        """Rename a session, or freeze or unfreeze its learning.

        Freezing pins the version in force, and unfreezing leaves it so. Raises ConflictError
        `learning_off` where the server's setting keeps all sessions frozen.
        """
        if title is not None:
            title = check_name(title, param="title")
        session = self._store.update_session(session, title=title, learning=learning)
        if learning == "frozen" and session.version != BASE_VERSION:
            self._store.pin_version(session, session.version, pinned=True)
            session = self._store.session(session.id, owner=session.owner)
        if learning is not None:
            kind = "session.frozen" if learning == "frozen" else "session.unfrozen"
            self.record.note_act(kind, session, version=session.version)
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
        """Answer a conversation that the client keeps. See `Chat.answer_alone`.

        Raises ReleaseEndedError when the release of what is served has expired.
        """
        self.clearance.require()
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
        """Answer inside a session. See `Chat.answer`.

        Raises ReleaseEndedError when the release of what is served has expired, and ConflictError
        `version_not_covered` when it says nothing of the version in force; one that comes in force
        while the answer is written ends it.
        """
        self._served.require(session)
        self.clearance.require()
        return await self._chat.answer(session, messages, parent=parent, sampling=sampling)

    async def stop(self, session: Session) -> None:
        """Stop the answer being written, if there is one, and return when it is stored."""
        await self._chat.stop(session)

    # Below

    def _state(self, session: Session, *, reading: bool, used_tokens: int | None) -> SessionState:
        return SessionState(
            session=session,
            busy=self._chat.is_busy(session.id),
            reading=reading,
            available=self._served.has(session),
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
        told = recall(stored)
        tokens = self._engine.count(told) if told else 0
        self._counts[session.id] = (key, tokens)
        return tokens

    def _require_covered(self, session: Session) -> None:
        if self.clearance.is_bounded and session.version != BASE_VERSION:
            version = self._store.version(session, session.version)
            self.clearance.require_covered(version)

    def _delete(self, session: Session) -> None:
        self.readings.stop_all(session)
        numbers = [version.number for version in self._store.versions(session)]
        self._store.delete_session(session)
        self._engine.forget(session.id)
        self._history.release(session, numbers)
        self._counts.pop(session.id, None)
        self.record.forget(session)
        self.record.note_act("session.deleted", session, versions=len(numbers))
