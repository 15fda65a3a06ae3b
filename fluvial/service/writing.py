"""The record of one answer inside a session: what is new, the text as it grows, the version."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence

from fluvial.adapt.history import History
from fluvial.errors import NotFoundError, StorageError
from fluvial.model.adapter import Adapter
from fluvial.service.hub import Hub
from fluvial.service.state import make_title
from fluvial.service.turn import Receipt
from fluvial.store import Store, Unset
from fluvial.types import FinishReason, GuardNote, Message, PassageNote, Session, StoredMessage


class Writing:
    """The record of one answer: the session as it is now, and the message being written."""

    def __init__(
        self,
        store: Store,
        *,
        hub: Hub,
        session: Session,
        require: Callable[[Session], None] = lambda session: None,
    ) -> None:
        """Write into `session`; `require` raises for one whose version in force may not answer."""
        self.session = session
        self._store = store
        self._hub = hub
        self._require = require
        self._answer: StoredMessage
        self._question: StoredMessage
        self._seen = hub.revision(session.id)

    def adapter(self, history: History) -> Adapter | None:
        """Return the adapter in force now. Asked between tokens: reads only after a change."""
        revision = self._hub.revision(self.session.id)
        if revision != self._seen:
            self._seen = revision
            self.refresh()
        try:
            return history.adapter(self.session)
        except NotFoundError:  # forgotten a moment ago, before the change was told
            return history.adapter(self.refresh())

    def refresh(self) -> Session:
        """Read the session again: another version may be in force. Raises what `require` does."""
        self.session = self._store.session(self.session.id, owner=self.session.owner)
        self._require(self.session)
        return self.session

    def store(
        self,
        messages: Sequence[Message],
        *,
        parent: str | None | Unset,
        passages: tuple[PassageNote, ...],
    ) -> list[StoredMessage]:
        """Store what is new, and an empty answer with what it draws on.

        Returns the user's messages.
        """
        stored, answer = self._store.append_turn(
            self.session,
            messages=messages,
            parent=parent,
            version=self.session.version,
            passages=passages,
        )
        self._question, self._answer = stored[-1], answer
        self._name(messages[-1].content)
        for message in (*stored, answer):
            self._hub.publish("message", self.session, message)
        return [message for message in stored if message.role == "user"]

    def _name(self, question: str) -> None:
        """Give a session that has no title one; without it the answer is as good."""
        if not self.session.title:
            with contextlib.suppress(StorageError):
                title = make_title(question)
                self.session = self._store.update_session(self.session, title=title)

    @property
    def receipt(self) -> Receipt:
        return Receipt(
            session=self.session.id,
            user_message=self._question.id,
            message=self._answer.id,
            version=self.session.version,
            passages=self._answer.passages,
        )

    async def flush(self, text: str) -> None:
        await asyncio.to_thread(self._update, text, finish=None)

    async def finish(
        self, text: str, *, finish: FinishReason, guard: GuardNote | None = None
    ) -> None:
        message = await asyncio.to_thread(self._update, text, finish=finish, guard=guard)
        self._hub.publish("message", self.session, message)

    def _update(
        self, text: str, *, finish: FinishReason | None, guard: GuardNote | None = None
    ) -> StoredMessage:
        return self._store.update_message(
            self._answer, content=text, finish=finish, version=self.session.version, guard=guard
        )
