"""Readings: what a session was given to read, how far it has come, and the text itself."""

from pathlib import Path
from typing import Any, final

from sqlalchemy import Connection, insert, select, update

from fluvial.errors import NotFoundError, StorageError
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.fault import translate_os
from fluvial.store.file import (
    SessionFolder,
    check_text,
    is_id,
    make_id,
    remove_file,
    write_atomically,
)
from fluvial.store.session import touch
from fluvial.types import Reading, ReadingKind, ReadingStatus, Session

_COLUMNS = table.select_columns(table.reading, Reading)


@final
class ReadingTable:
    """The readings in the database, and their texts below `root`."""

    def __init__(self, database: Database, *, clock: Clock, root: Path) -> None:
        self._database = database
        self._clock = clock
        self._root = root

    def create(self, session: Session, *, kind: ReadingKind, name: str, text: str) -> Reading:
        check_text(name, param="name")
        data = check_text(text, param="text")
        reading = Reading(
            id=make_id("read"),
            session=session.id,
            kind=kind,
            name=name,
            status="queued",
            bytes=len(data),
            tokens_total=None,
            tokens_read=0,
            created_at=self._clock.now(),
        )
        path = self._path(reading)
        write_atomically(path, data)
        try:
            self._insert(session, reading)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return reading

    def find(self, session: Session, id: str) -> Reading:
        if not is_id(id, prefix="read"):
            raise _missing(id)
        c = table.reading.c
        query = select(*_COLUMNS).where(c.session == session.id, c.id == id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _missing(id)
        return table.make_record(row, Reading)

    def list_all(self, session: Session) -> list[Reading]:
        c = table.reading.c
        query = select(*_COLUMNS).where(c.session == session.id).order_by(c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [table.make_record(row, Reading) for row in rows]

    def text(self, reading: Reading) -> str:
        if not self.has_text(reading):
            raise NotFoundError(f"the text of reading {reading.id} was removed", param="reading")
        with translate_os(f"reading the text of {reading.id}"):
            data = self._path(reading).read_bytes()
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            message = f"the text of reading {reading.id} is damaged on the disk: {error}"
            raise StorageError(message, code="storage_failed") from None

    def has_text(self, reading: Reading) -> bool:
        return self._path(reading).exists()

    def remove_text(self, reading: Reading) -> None:
        remove_file(self._path(reading))

    def update(
        self,
        reading: Reading,
        *,
        status: ReadingStatus | None,
        tokens_total: int | None,
        tokens_read: int | None,
        error: str | None,
    ) -> Reading:
        with self._database.write() as connection:
            return update_row(
                connection,
                reading,
                status=status,
                tokens_total=tokens_total,
                tokens_read=tokens_read,
                error=error,
            )

    def list_unfinished(self, *, model: str) -> list[tuple[Session, Reading]]:
        owners = table.select_columns(table.session, Session)
        c = table.reading.c
        query = (
            select(*owners, *_COLUMNS)
            .join_from(table.reading, table.session)
            .where(c.status.in_(("queued", "reading")), table.session.c.model == model)
            .order_by(c.number)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            (
                table.make_record(row[: len(owners)], Session),
                table.make_record(row[len(owners) :], Reading),
            )
            for row in rows
        ]

    def _insert(self, session: Session, reading: Reading) -> None:
        with self._database.write() as connection:
            touch(connection, session.id, owner=session.owner, at=reading.created_at)
            connection.execute(insert(table.reading).values(vars(reading)))

    def _path(self, reading: Reading) -> Path:
        return SessionFolder(self._root, reading.session).reading_path(reading.id)


def _missing(id: str) -> NotFoundError:
    return NotFoundError(f"no reading {id!r}", param="reading")


def update_row(connection: Connection, reading: Reading, **given: Any) -> Reading:
    """Change the row of `reading` where a value is not None. Raises NotFoundError."""
    changes = {key: value for key, value in given.items() if value is not None}
    if "error" in changes:
        check_text(changes["error"], param="error")
    c = table.reading.c
    change = update(table.reading).where(c.id == reading.id, c.session == reading.session)
    rows = connection.execute(change.values(changes or {"id": reading.id}).returning(*_COLUMNS))
    row = rows.one_or_none()
    if row is None:
        raise _missing(reading.id)
    return table.make_record(row, Reading)
