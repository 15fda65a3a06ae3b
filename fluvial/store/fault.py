"""Turns what SQLite and the operating system say into Fluvial's errors."""

import errno
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from fluvial.errors import BusyError, FluvialError, NotFoundError, StorageError

_FULL = "the disk is full; nothing of this change was kept. Free some space and try again"
_SQLITE: dict[int, tuple[str, str]] = {
    sqlite3.SQLITE_FULL: ("storage_full", _FULL),
    sqlite3.SQLITE_IOERR: ("storage_failed", "the disk failed under the database"),
    sqlite3.SQLITE_CANTOPEN: ("storage_failed", "the database can't be opened"),
    sqlite3.SQLITE_READONLY: ("storage_failed", "the database can't be written to"),
    sqlite3.SQLITE_PERM: ("storage_failed", "the database may not be accessed"),
    sqlite3.SQLITE_NOTADB: ("database_damaged", "the file is not a Fluvial database"),
    sqlite3.SQLITE_CORRUPT: ("database_damaged", "the database is damaged; restore a backup of it"),
}


@contextmanager
def translate_sqlite() -> Generator[None, None, None]:
    """Raise StorageError or BusyError for the faults SQLite reports inside the block.

    A row that refers to a deleted one raises NotFoundError. Other database errors are mistakes of
    ours and pass unchanged.
    """
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        translated = _translate(error.orig if isinstance(error, DBAPIError) else error)
        if translated is None:
            raise
        raise translated from error


@contextmanager
def translate_os(doing: str) -> Generator[None, None, None]:
    """Raise StorageError, saying what was being done, for an OSError inside the block."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{doing}: {_FULL}") from error
        raise StorageError(f"{doing}: {error}", code="storage_failed") from error


def _translate(error: BaseException | None) -> FluvialError | None:
    if not isinstance(error, sqlite3.DatabaseError):
        return None
    extended = getattr(error, "sqlite_errorcode", 0)
    if extended == sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY:
        return NotFoundError("what this belongs to was deleted meanwhile")
    primary = extended & 0xFF
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return BusyError(
            "another process keeps the database locked; try again", code="storage_busy"
        )
    if primary not in _SQLITE:
        return None
    code, message = _SQLITE[primary]
    return StorageError(f"{message} ({error})", code=code)
