"""Versions of a session's adapter: a row here, its tensors in a file written by `adapt`."""

import math
from pathlib import Path
from typing import final

from sqlalchemy import Connection, delete, func, insert, select, update

from fluvial.errors import ConflictError, InputError, NotFoundError
from fluvial.note import tell_all
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.file import SessionFolder, check_text, discard_file
from fluvial.store.reading import update_row
from fluvial.store.session import missing, owned, require_version, touch
from fluvial.types import BASE_VERSION, Reading, ReadingStatus, Session, Version

_COLUMNS = table.select_columns(table.version, Version)


@final
class VersionTable:
    """The versions in the database, and the paths of their tensors below `root`."""

    def __init__(self, database: Database, *, clock: Clock, root: Path) -> None:
        self._database = database
        self._clock = clock
        self._root = root

    def next_number(self, session: Session) -> int:
        c = table.session.c
        count = (
            update(table.session).where(*owned(session)).values(version_count=c.version_count + 1)
        )
        with self._database.write() as connection:
            number = connection.execute(count.returning(c.version_count)).scalar_one_or_none()
        if number is None:
            raise missing(session.id)
        return number

    def add(
        self,
        version: Version,
        *,
        reading: Reading | None,
        tokens_read: int,
        status: ReadingStatus | None,
    ) -> Session:
        _check(version, reading=reading)
        with self._database.write() as connection:
            c, number = table.session.c, version.number
            count = func.max(c.version_count, number)
            session = touch(
                connection,
                version.session,
                owner=None,
                at=self._clock.now(),
                version=number,
                version_count=count,
            )
            _insert(connection, version)
            if reading is not None:
                update_row(connection, reading, tokens_read=tokens_read, status=status)
        return session

    def list_all(self, session: Session) -> list[Version]:
        c = table.version.c
        query = select(*_COLUMNS).where(c.session == session.id).order_by(c.number)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [table.make_record(row, Version) for row in rows]

    def find(self, session: Session, number: int) -> Version:
        c = table.version.c
        query = select(*_COLUMNS).where(c.session == session.id, c.number == number)
        with self._database.read() as connection:
            require_version(connection, session.id, number)
            row = connection.execute(query).one_or_none()
        if row is None:
            raise _base_error()
        return table.make_record(row, Version)

    def pin(self, session: Session, number: int, *, pinned: bool) -> Version:
        c = table.version.c
        change = update(table.version).where(c.session == session.id, c.number == number)
        with self._database.write() as connection:
            touch(connection, session.id, owner=session.owner, at=self._clock.now())
            if number == BASE_VERSION:
                raise _base_error()
            require_version(connection, session.id, number)
            row = connection.execute(change.values(pinned=pinned).returning(*_COLUMNS)).one()
        return table.make_record(row, Version)

    def delete(self, session: Session, number: int, *, spare_pinned: bool = False) -> None:
        c = table.version.c
        with self._database.write(frees=True) as connection:
            query = select(table.session.c.version).where(*owned(session))
            in_force = connection.execute(query).scalar_one_or_none()
            if in_force is None:
                raise missing(session.id)
            if number == in_force:
                raise ConflictError(
                    f"version {number} is in force; restore another one first",
                    code="version_in_force",
                    param="version",
                )
            if number == BASE_VERSION:
                raise _base_error()
            require_version(connection, session.id, number)
            this = delete(table.version).where(c.session == session.id, c.number == number)
            this = this.where(c.pinned.is_(False)) if spare_pinned else this
            if connection.execute(this).rowcount == 0:
                raise ConflictError(f"version {number} is pinned", code="version_pinned")
        discard_file(self.path(session, number))

    def forget(self, session: Session) -> Session:
        """Remove all versions and scores; the base is in force again."""
        with self._database.write(frees=True) as connection:
            current = touch(
                connection,
                session.id,
                owner=session.owner,
                at=self._clock.now(),
                version=BASE_VERSION,
            )
            v, s = table.version, table.score
            connection.execute(delete(s).where(s.c.session == session.id))
            versions = delete(v).where(v.c.session == session.id).returning(v.c.number)
            numbers = connection.execute(versions).scalars().all()
        for number in numbers:
            discard_file(self.path(session, number))
        return current

    def path(self, session: Session, number: int) -> Path:
        return SessionFolder(self._root, session.id).version_path(number)


def _base_error() -> NotFoundError:
    return NotFoundError("version 0 is the base: nothing is stored for it", param="version")


def _check(version: Version, *, reading: Reading | None) -> None:
    if reading is not None and reading.session != version.session:
        raise NotFoundError(f"no reading {reading.id!r} in session {version.session}")
    if version.number <= BASE_VERSION:
        raise InputError(f"versions start at 1, not {version.number}", param="version")
    for name in ("drift", "score_before_bpb", "frozen_bpb", "scale"):
        value: float | None = getattr(version, name)
        if value is not None and not math.isfinite(value):
            raise InputError(f"the {name} of a version must be finite", param="version")
    check_text(tell_all(version.notes), param="notes")


def _insert(connection: Connection, version: Version) -> None:
    c = table.version.c
    same = select(c.number).where(c.session == version.session, c.number == version.number)
    if connection.execute(same).first() is not None:
        raise ConflictError(
            f"session {version.session} already has a version {version.number}", param="version"
        )
    insert_row(connection, version)


def insert_row(connection: Connection, version: Version) -> None:
    """Add a version's row; its number must be free."""
    connection.execute(insert(table.version).values(vars(version)))
