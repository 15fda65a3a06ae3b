"""Gives the pages of deleted rows back to the disk, where other files need them.

The functions take a connection outside of any transaction and never raise for a full disk.
"""

import contextlib
import sqlite3

_FOLD_PAGES = 1000  # what SQLite does by itself
_LEAST_PAGES = 16


def shrink(connection: sqlite3.Connection, *, pages: int) -> int:
    """Cut up to `pages` free pages off the database; returns how many went."""
    before = _read_number(connection, "freelist_count")
    with contextlib.suppress(sqlite3.Error):
        connection.executescript(f"PRAGMA incremental_vacuum({pages})")  # runs it to its end
    return before - _read_number(connection, "freelist_count")


def shrink_fully(connection: sqlite3.Connection) -> None:
    """Cut off all free pages, on a full disk: in steps that fit into what little room there is."""
    while _shrink_in_steps(connection):
        fold_log(connection)


def fold_log(connection: sqlite3.Connection) -> None:
    """Write the WAL into the database file and give its space back, if that is possible now."""
    _read_number(connection, "wal_checkpoint(TRUNCATE)")


def set_folding(connection: sqlite3.Connection, *, automatic: bool) -> None:
    """Let commits fold the WAL by themselves, or not: before a shrink, that would take its room."""
    _read_number(connection, f"wal_autocheckpoint={_FOLD_PAGES if automatic else 0}")


def _shrink_in_steps(connection: sqlite3.Connection) -> int:
    """Cut off pages until no smaller step works either; returns how many went.

    A step that needs to move many pages first does not fit into the WAL; it changes nothing then.
    """
    cut = 0
    pages = _read_number(connection, "freelist_count")
    while pages >= _LEAST_PAGES:
        step = shrink(connection, pages=pages)
        cut += step
        pages = pages // 4 if step == 0 else min(pages, _read_number(connection, "freelist_count"))
    return cut


def _read_number(connection: sqlite3.Connection, pragma: str) -> int:
    """Run a pragma; returns the first number it answers, 0 where it fails."""
    with contextlib.suppress(sqlite3.Error):
        rows = connection.execute(f"PRAGMA {pragma}").fetchall()
        return rows[0][0] if rows else 0
    return 0
