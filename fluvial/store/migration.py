"""Brings the tables of a database up to this version of Fluvial, in one transaction."""

import time
from pathlib import Path

from sqlalchemy import Connection, delete, insert, inspect, select, text

import fluvial
from fluvial.errors import StorageError
from fluvial.store import table

HEAD = "0006"
"""The newest migration. Kept here so that a database that is up to date opens without Alembic."""

_FOLDER = Path(__file__).parent / "migrations"


def migrate(connection: Connection) -> None:
    """Make or upgrade the tables. `connection` is in a write transaction: all stays, or nothing.

    Raises StorageError when a newer Fluvial made the database, and says which one is needed.
    """
    found = _read_revision(connection)
    if found == HEAD:
        return
    _upgrade(connection, found=found)
    stamp = {"fluvial_version": fluvial.__version__, "migrated_at": time.time()}
    connection.execute(delete(table.schema_info))
    connection.execute(insert(table.schema_info).values(stamp))


def _read_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection, *, found: str | None) -> None:
    # Imported here: that takes longer than all the rest of opening a store that is up to date.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if found is not None and found not in known:
        raise _make_newer_error(connection, found=found)
    command.upgrade(config, "head")


def _make_newer_error(connection: Connection, *, found: str) -> StorageError:
    maker = connection.execute(select(table.schema_info.c.fluvial_version)).scalar()
    return StorageError(
        f"the database was made by Fluvial {maker} (tables {found}), which is newer than this "
        f"Fluvial {fluvial.__version__} (tables {HEAD}); install fluvial>={maker}, or choose "
        "another folder with --data-dir",
        code="database_newer",
    )
