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
from typing import Any, cast, final

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

from fluvial.errors import StorageError
from fluvial.store.fault import translate_sqlite
from fluvial.store.reserve import Reserve
from fluvial.store.shrink import fold_log, set_folding, shrink, shrink_fully

_BUSY_TIMEOUT_MS = 10_000
_WAL_LIMIT_BYTES = 16 * 2**20
_SHRINK_PAGES = 1024  # after one deletion: at most 4 MB are moved
_PRAGMAS = (
    f"busy_timeout={_BUSY_TIMEOUT_MS}",  # first: the next ones may meet another process's lock
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=FAST",  # what people delete is overwritten where that costs no extra write
    f"journal_size_limit={_WAL_LIMIT_BYTES}",
    "cache_spill=OFF",  # a change goes to the disk once, when it is whole
    "temp_store=MEMORY",  # sorting must work on a full disk
    "trusted_schema=OFF",
)


@final
class Database:
    """The SQLite file at `path`, made when missing, readable by its owner only. Thread-safe.

    Blocks are short and are not nested in one thread. Both raise StorageError or BusyError.
    """

    def __init__(self, path: Path, *, reserve: Reserve) -> None:
        _create(path)
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
            with self._making_room() if frees else contextlib.nullcontext():
                try:
                    with translate_sqlite(), self._writer.begin() as connection:
                        yield connection
                except StorageError:
                    with self._outside_transaction() as raw:
                        fold_log(raw)
                    raise

    def close(self) -> None:
        """Wait for the writer, fold the WAL into the file and close. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._readers.dispose()
            self._writer.dispose()

    @contextmanager
    def _making_room(self) -> Generator[None, None, None]:
        """Lend the reserve to the block on a full disk; then give deleted pages to the disk."""
        if not self._reserve.release_if_needed():
            yield
            with self._outside_transaction() as raw:
                shrink(raw, pages=_SHRINK_PAGES)
            return
        with self._outside_transaction() as raw:
            set_folding(raw, automatic=False)
        try:
            yield
        finally:
            with self._outside_transaction() as raw:
                shrink_fully(raw)
                set_folding(raw, automatic=True)
            self._reserve.fill()

    @contextmanager
    def _outside_transaction(self) -> Generator[sqlite3.Connection, None, None]:
        with translate_sqlite(), contextlib.closing(self._writer.raw_connection()) as pooled:
            yield cast(sqlite3.Connection, pooled.driver_connection)

    def _check_open(self) -> None:
        if self._closed:
            raise StorageError("the store is closed", code="store_closed")


def _create(path: Path) -> None:
    """Make the file, if missing, in the form that can give deleted pages back to the disk."""
    path.touch(mode=0o600)
    if path.stat().st_size == 0:
        with translate_sqlite(), contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            connection.execute("PRAGMA journal_mode=WAL")


def _make_engine(path: Path, *, begin: str, pragmas: tuple[str, ...] = ()) -> Engine:
    """Make an engine whose transactions start with `begin`, not where the driver would."""
    url = URL.create("sqlite", database=str(path))
    engine = create_engine(url, max_overflow=-1, hide_parameters=True)  # logs hold no conversations

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
