"""Connections to the one SQLite file: many readers that never wait, one writer at a time.

SQLite runs in WAL mode with `synchronous=FULL`: what a `write` block has committed survives a
`kill -9` and a power cut. A `read` block sees one consistent state of the whole database.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

from fluvial.errors import StorageError
from fluvial.store.fault import translate_sqlite
from fluvial.store.reserve import Reserve

_BUSY_TIMEOUT_MS = 10_000
_WAL_LIMIT_BYTES = 16 * 2**20
_PRAGMAS = (
    f"busy_timeout={_BUSY_TIMEOUT_MS}",  # first: the next ones may meet another process's lock
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=FAST",  # what people delete is overwritten where that costs no extra write
    f"journal_size_limit={_WAL_LIMIT_BYTES}",
    "temp_store=MEMORY",  # sorting must work on a full disk
    "trusted_schema=OFF",
)


@final
class Database:
    """The SQLite file at `path`, made when missing, readable by its owner only. Thread-safe.

    Blocks are short and are not nested in one thread. Both raise StorageError or BusyError.
    """

    def __init__(self, path: Path, *, reserve: Reserve) -> None:
        path.touch(mode=0o600)
        self._reserve = reserve
        self._readers = _make_engine(path, begin="BEGIN", pragmas=("query_only=ON",))
        self._writer = _make_engine(path, begin="BEGIN IMMEDIATE")
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def read(self) -> Generator[Connection, None, None]:
        """Open a read-only transaction; it never waits for the writer."""
        self._check_open()
        with translate_sqlite(), self._readers.begin() as connection:
            yield connection

    @contextmanager
    def write(self, *, frees: bool = False) -> Generator[Connection, None, None]:
        """Open the write transaction; commits at the end of the block, or rolls all of it back.

        `frees` marks a change that gives space back: on a full disk it may use the reserve.
        """
        with self._lock:
            self._check_open()
            lent = frees and self._reserve.release_if_needed()
            try:
                with translate_sqlite(), self._writer.begin() as connection:
                    yield connection
            except StorageError:
                self._fold_log()
                raise
            finally:
                if lent:
                    self._fold_log()
                    self._reserve.fill()

    def close(self) -> None:
        """Wait for the writer, fold the WAL into the file and close. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._readers.dispose()
            self._writer.dispose()

    def _fold_log(self) -> None:
        """Give the space of the WAL back to the disk: on a full one, the next write needs it."""
        with contextlib.suppress(sqlite3.Error, DBAPIError):
            connection = self._writer.raw_connection()
            try:
                connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").close()
            finally:
                connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the store is closed", code="store_closed")


def _make_engine(path: Path, *, begin: str, pragmas: tuple[str, ...] = ()) -> Engine:
    """Make an engine whose transactions start with `begin`, not where the driver would."""
    engine = create_engine(URL.create("sqlite", database=str(path)), max_overflow=-1)

    def prepare(connection: sqlite3.Connection, entry: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        for pragma in (*_PRAGMAS, *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    listeners: dict[str, Any] = {"connect": prepare, "begin": start}
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    return engine
