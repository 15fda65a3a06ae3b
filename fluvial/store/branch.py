"""A session that begins where another one stood: copies of one version, perhaps of messages."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, insert, select

from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.file import SessionFolder, check_text, make_id, write_atomically
from fluvial.store.session import missing, owned
from fluvial.store.version import insert_row
from fluvial.types import BASE_VERSION, Session, StoredMessage, Version

FIRST = 1
"""The number of the copied version in its new session."""


def create_branch(
    session: Session,
    *,
    database: Database,
    clock: Clock,
    root: Path,
    title: str,
    version: Version | None,
    data: bytes,
    messages: Sequence[StoredMessage],
) -> Session:
    """Make a session of the same owner, all of it or nothing. `data` is the version's file."""
    check_text(title, param="title")
    now = clock.now()
    branch = replace(
        session,
        id=make_id("sess"),
        title=title,
        version=BASE_VERSION if version is None else FIRST,
        created_at=now,
        updated_at=now,
    )
    folder = SessionFolder(root, branch.id)
    try:
        if version is not None:
            write_atomically(folder.version_path(FIRST), data)
        with database.write() as connection:
            if (
                connection.execute(select(table.session.c.id).where(*owned(session))).first()
                is None
            ):
                raise missing(session.id)
            row = {**vars(branch), "version_count": branch.version}
            connection.execute(insert(table.session).values(row))
            if version is not None:
                insert_row(connection, _copy_version(version, branch, now))
            _copy_messages(connection, branch, messages, version)
    except BaseException:
        folder.remove()
        raise
    return branch


def _copy_version(version: Version, branch: Session, now: float) -> Version:
    return replace(
        version,
        session=branch.id,
        number=FIRST,
        parent=BASE_VERSION,
        reading=None,
        origin="branch",
        created_at=now,
    )


def _copy_messages(
    connection: Connection,
    branch: Session,
    messages: Sequence[StoredMessage],
    version: Version | None,
) -> None:
    """Copy messages; the version that wrote one is named only where the branch has it."""
    for position, message in enumerate(messages):
        same = version is not None and message.version == version.number
        copy = replace(
            message,
            id=make_id("msg"),
            session=branch.id,
            position=position,
            version=FIRST if same else BASE_VERSION,
            passages=(),
        )
        connection.execute(insert(table.message).values(vars(copy)))
