"""Messages of a session, in order. Appending is where two writers of one session meet."""

import enum
from collections.abc import Sequence
from typing import final

from sqlalchemy import Connection, func, insert, select, update

from fluvial.errors import ConflictError, InputError, NotFoundError
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.file import check_text, make_id
from fluvial.store.session import touch
from fluvial.types import (
    FinishReason,
    GuardNote,
    Message,
    PassageNote,
    Role,
    Session,
    StoredMessage,
)

_COLUMNS = table.select_columns(table.message, StoredMessage)


class Unset(enum.Enum):
    """The type of UNSET: no value was given, which is not the same as None."""

    UNSET = "unset"


UNSET = Unset.UNSET


@final
class MessageTable:
    """The messages in the database."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def append(
        self,
        session: Session,
        *,
        role: Role,
        content: str,
        version: int,
        finish: FinishReason | None,
    ) -> StoredMessage:
        check_text(content, param="content")
        with self._database.write() as connection:
            message = Message(role=role, content=content)
            return self._append(connection, session, [message], version=version, finish=finish)[0]

    def append_turn(
        self,
        session: Session,
        *,
        messages: Sequence[Message],
        parent: str | None | Unset,
        version: int,
        passages: Sequence[PassageNote],
    ) -> tuple[list[StoredMessage], StoredMessage]:
        if not messages:
            raise InputError("messages must hold at least one new message", param="messages")
        for message in messages:
            check_text(message.content, param="messages")
        turn = [*messages, Message(role="assistant", content="")]
        with self._database.write() as connection:
            if not isinstance(parent, Unset):
                _require_last(connection, session, parent)
            stored = self._append(
                connection, session, turn, version=version, finish=None, passages=passages
            )
        return stored[:-1], stored[-1]

    def update(
        self,
        message: StoredMessage,
        *,
        content: str,
        finish: FinishReason | None,
        version: int | None,
        guard: GuardNote | None,
    ) -> StoredMessage:
        check_text(content, param="content")
        given = {"content": content, "finish": finish, "version": version, "guard": guard}
        changes = {key: value for key, value in given.items() if value is not None}
        c = table.message.c
        change = update(table.message).where(c.id == message.id, c.session == message.session)
        with self._database.write() as connection:
            rows = connection.execute(change.values(changes).returning(*_COLUMNS))
            row = rows.one_or_none()
        if row is None:
            raise NotFoundError(f"no message {message.id!r}", param="message")
        return table.make_record(row, StoredMessage)

    def list_all(self, session: Session) -> list[StoredMessage]:
        c = table.message.c
        query = select(*_COLUMNS).where(c.session == session.id).order_by(c.position)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [table.make_record(row, StoredMessage) for row in rows]

    def _append(
        self,
        connection: Connection,
        session: Session,
        messages: Sequence[Message],
        *,
        version: int,
        finish: FinishReason | None,
        passages: Sequence[PassageNote] = (),
    ) -> list[StoredMessage]:
        """Add messages at the end; the last one gets the `passages`."""
        now = self._clock.now()
        touch(connection, session.id, owner=session.owner, at=now)
        c = table.message.c
        last = connection.execute(select(func.max(c.position)).where(c.session == session.id))
        position = last.scalar()
        stored = [
            StoredMessage(
                id=make_id("msg"),
                session=session.id,
                position=number,
                role=message.role,
                content=message.content,
                created_at=now,
                version=version,
                finish=finish,
                passages=tuple(passages) if message is messages[-1] else (),
            )
            for number, message in enumerate(messages, 0 if position is None else position + 1)
        ]
        connection.execute(insert(table.message), [vars(message) for message in stored])
        return stored


def _require_last(connection: Connection, session: Session, parent: str | None) -> None:
    c = table.message.c
    query = select(c.id).where(c.session == session.id).order_by(c.position.desc()).limit(1)
    last = connection.execute(query).scalar_one_or_none()
    if last != parent:
        raise ConflictError(
            f"the session moved on: its last message is {last!r}, not {parent!r}; load it again",
            code="session_changed",
            param="fluvial.parent",
        )
