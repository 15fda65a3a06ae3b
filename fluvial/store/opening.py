"""Opens a data folder, and repairs what a process that died there has left."""

import logging
from pathlib import Path

from sqlalchemy import Connection, func, select, update

from fluvial.errors import StorageError
from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.fault import translate_os
from fluvial.store.file import SessionFolder, sweep
from fluvial.store.lock import FolderLock
from fluvial.store.migration import migrate
from fluvial.store.publication import PUBLISHED_FOLDER
from fluvial.store.reserve import Reserve

_log = logging.getLogger(__name__)


def open_parts(
    data_dir: Path, *, exclusive: bool
) -> tuple[Database, Clock, Path, FolderLock | None]:
    """Open what a Store is made of; closes it all again where something fails."""
    root = data_dir / "sessions"
    with translate_os(f"making the data folder {data_dir}"):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FolderLock(data_dir) if exclusive else None
    try:
        database, clock = _open_database(data_dir, root=root, exclusive=exclusive)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return database, clock, root, lock


def _open_database(data_dir: Path, *, root: Path, exclusive: bool) -> tuple[Database, Clock]:
    path = data_dir / "fluvial.sqlite3"
    _require_not_lost(path, root=root)
    reserve = Reserve(data_dir / "reserve")
    reserve.release_if_needed()
    with translate_os(f"opening {path}"):
        database = Database(path, reserve=reserve)
    try:
        return database, _prepare(database, root=root, reserve=reserve, repair=exclusive)
    except BaseException:
        database.close()
        raise


def _prepare(database: Database, *, root: Path, reserve: Reserve, repair: bool) -> Clock:
    with database.write() as connection:
        migrate(connection)
    if repair:
        _repair(database, root=root)
    reserve.fill()
    with database.read() as connection:
        last = connection.execute(select(func.max(table.session.c.updated_at))).scalar()
    return Clock(after=last or 0.0)


def _require_not_lost(path: Path, *, root: Path) -> None:
    """Refuse to begin an empty database beside files that it named: the sweep would remove them."""
    published = root.parent / PUBLISHED_FOLDER
    for folder, pattern in ((root, "sess_*"), (published, "pub_*")):
        if not path.exists() and any(folder.glob(pattern)):
            raise StorageError(
                f"{path} is missing, but there are files that it named in {folder}; restore the "
                "database from a backup, or remove that folder to begin anew",
                code="database_missing",
            )


def _repair(database: Database, *, root: Path) -> None:
    """End what a dead process left half-done. On a full disk this waits for the next start."""
    try:
        with database.write() as connection:
            _end_interrupted(connection)
    except StorageError as error:
        _log.warning("answers that were interrupted stay open: %s", error)
    with database.read() as connection:
        sessions = set(connection.execute(select(table.session.c.id)).scalars())
        keep = _list_files(connection, root=root)
    sweep(root, keep=keep, sessions=sessions)


def _end_interrupted(connection: Connection) -> None:
    message, reading = table.message, table.reading
    cancel = update(message).where(table.UNFINISHED_MESSAGE).values(finish="cancelled")
    requeue = update(reading).where(reading.c.status == "reading").values(status="queued")
    connection.execute(cancel)
    connection.execute(requeue)


def _list_files(connection: Connection, *, root: Path) -> set[Path]:
    """List the files that rows name."""
    readings = connection.execute(select(table.reading.c.session, table.reading.c.id))
    keep = {SessionFolder(root, session).reading_path(id) for session, id in readings}
    versions = connection.execute(select(table.version.c.session, table.version.c.number))
    return keep | {SessionFolder(root, session).version_path(n) for session, n in versions}
