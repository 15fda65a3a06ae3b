"""Sessions: the rows that own all other rows."""

import math
from typing import Any, final

from sqlalchemy import Connection, delete, insert, select, update

from fluvial.errors import InputError, NotFoundError
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.file import check_text, is_id, make_id
from fluvial.types import BASE_VERSION, Learning, Session

_COLUMNS = table.select_columns(table.session, Session)


@final
class SessionTable:
    """The sessions in the database. Every query names the owner."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def create(
        self, *, owner: str, title: str, model: str, checkpoint: str, learning: Learning
    ) -> Session:
        texts = {"owner": owner, "title": title, "model": model, "checkpoint": checkpoint}
        for param, text in texts.items():
            check_text(text, param=param)
        now = self._clock.now()
        session = Session(
            id=make_id("sess"),
            owner=owner,
            title=title,
            model=model,
            checkpoint=checkpoint,
            learning=learning,
            version=BASE_VERSION,
            created_at=now,
            updated_at=now,
        )
        with self._database.write() as connection:
            connection.execute(insert(table.session).values(vars(session)))
        return session

    def find(self, id: str, *, owner: str) -> Session:
        if not is_id(id, prefix="sess"):
            raise missing(id)
        check_text(owner, param="owner")
        query = select(*_COLUMNS).where(table.session.c.id == id, table.session.c.owner == owner)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise missing(id)
        return table.make_record(row, Session)

    def list_all(self, *, owner: str, limit: int, before: float | None) -> list[Session]:
        check_text(owner, param="owner")
        if limit < 1:
            raise InputError(f"limit must be at least 1, not {limit}", param="limit")
        if before is not None and math.isnan(before):
            raise InputError("before must be a time in seconds, not NaN", param="before")
        query = select(*_COLUMNS).where(table.session.c.owner == owner)
        if before is not None:
            query = query.where(table.session.c.updated_at < before)
        query = query.order_by(table.session.c.updated_at.desc()).limit(min(limit, 10_000))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [table.make_record(row, Session) for row in rows]

    def update(
        self,
        session: Session,
        *,
        title: str | None,
        learning: Learning | None,
        version: int | None,
    ) -> Session:
        if title is not None:
            check_text(title, param="title")
        given = {"title": title, "learning": learning, "version": version}
        changes = {key: value for key, value in given.items() if value is not None}
        with self._database.write() as connection:
            if version is not None:
                require_version(connection, session.id, version)
            at = self._clock.now()
            return touch(connection, session.id, owner=session.owner, at=at, **changes)

    def delete(self, session: Session) -> None:
        """Remove the session's row, and with it all rows of it in other tables."""
        with self._database.write(frees=True) as connection:
            removed = connection.execute(delete(table.session).where(*owned(session)))
            if removed.rowcount == 0:
                raise missing(session.id)


def owned(session: Session) -> tuple[Any, ...]:
    """Make the condition that picks this session, for its owner only."""
    return table.session.c.id == session.id, table.session.c.owner == session.owner


def missing(id: str) -> NotFoundError:
    """Make the error for a session that is not there, or is another owner's."""
    return NotFoundError(f"no session {id!r}", param="session")


def touch(
    connection: Connection, id: str, *, owner: str | None, at: float, **changes: Any
) -> Session:
    """Change the session's row, move it to the top of its owner's list and return it as it is now.

    What adds to a session goes through here, so that nothing is added to a deleted one. `owner` is
    None only where the caller holds a record that was reached through its session.
    Raises NotFoundError.
    """
    c = table.session.c
    change = update(table.session).where(c.id == id).values(updated_at=at, **changes)
    if owner is not None:
        change = change.where(c.owner == owner)
    row = connection.execute(change.returning(*_COLUMNS)).one_or_none()
    if row is None:
        raise missing(id)
    return table.make_record(row, Session)


def require_version(connection: Connection, session: str, number: int) -> None:
    """Raise NotFoundError unless the session has this version. The base is always there."""
    if number == BASE_VERSION:
        return
    c = table.version.c
    query = select(c.number).where(c.session == session, c.number == number)
    if not 0 < number < 2**63 or connection.execute(query).first() is None:
        raise NotFoundError(f"session {session} has no version {number}", param="version")
