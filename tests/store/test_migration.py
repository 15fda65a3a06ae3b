import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import fluvial
from fluvial.adapt.naming import name_version
from fluvial.store import Store, migration, table
from fluvial.version_note import OldDrift, ParentDeleted


def test_migrations_end_where_the_tables_are(store: Store) -> None:
    with store._database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), table.metadata) == []


def test_head_is_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_heads() == [migration.HEAD]


def test_database_tells_who_migrated_it(store: Store) -> None:
    with store._database.read() as connection:
        rows = connection.exec_driver_sql("SELECT fluvial_version FROM schema_info").all()
    assert rows == [(fluvial.__version__,)]


def test_a_migration_that_dies_leaves_the_database_as_it_was(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die() -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr(migration.time, "time", die)
    with pytest.raises(KeyboardInterrupt):
        Store.open(data_dir)
    monkeypatch.undo()
    database = sqlite3.connect(data_dir / "fluvial.sqlite3")
    assert database.execute("SELECT name FROM sqlite_master").fetchall() == []
    database.close()
    Store.open(data_dir).close()


def test_folder_names_with_percent_signs_and_spaces_work(tmp_path: Path) -> None:
    Store.open(tmp_path / "100% ours ?mode=memory#x").close()
    assert (tmp_path / "100% ours ?mode=memory#x" / "fluvial.sqlite3").stat().st_size > 0


def test_versions_get_names_and_those_whose_parent_is_gone_say_so(
    tmp_path: Path,
) -> None:
    golden = Path(__file__).parent.parent / "golden" / "store-0002"
    shutil.copytree(golden, tmp_path / "data")
    database = sqlite3.connect(tmp_path / "data" / "fluvial.sqlite3")
    database.execute("DELETE FROM version WHERE number = 1")
    database.execute("UPDATE session SET version = 2")
    database.commit()
    database.close()
    store = Store.open(tmp_path / "data")
    session = store.sessions(owner="ann")[0]
    (version,) = store.versions(session)
    name = name_version(checkpoint=session.checkpoint, rule="", sha256=version.sha256)
    assert (version.id, version.parents, version.parent) == (name, (), 1)
    assert version.drift is None
    assert version.notes == (OldDrift(change=1e-3), ParentDeleted())
    store.close()
