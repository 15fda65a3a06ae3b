import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import fluvial
from fluvial.errors import ConflictError, StorageError
from fluvial.store import Store
from fluvial.types import Message

from .sample import add_version, make_session

HI = [Message(role="user", content="hi")]


def test_everything_is_there_again(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    users, answer = store.append_turn(session, messages=HI, parent=None, version=0)
    answer = store.update_message(answer, content="hello", finish="stop")
    reading = store.create_reading(session, kind="document", name="n", text="text")
    version = add_version(store, session)
    session = store.session(session.id, owner="ann")
    store.close()
    store = Store.open(data_dir)
    assert store.sessions(owner="ann") == [session]
    assert store.messages(session) == [*users, answer]
    assert store.readings(session) == [reading]
    assert store.versions(session) == [version]
    assert store.version_path(session, 1).read_bytes() == b"tensors 1"
    store.close()


def test_folder_and_database_are_private(store: Store, data_dir: Path) -> None:
    make_session(store)
    assert data_dir.stat().st_mode & 0o777 == 0o700
    for path in data_dir.glob("fluvial.sqlite3*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_what_a_dead_process_left_half_done_is_ended(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    _, done = store.append_turn(session, messages=HI, parent=None, version=0)
    done = store.update_message(done, content="all", finish="stop")
    users, half = store.append_turn(session, messages=HI, parent=done.id, version=0)
    half = store.update_message(half, content="ha")
    reading = store.create_reading(session, kind="document", name="1", text="t")
    store.update_reading(reading, status="reading", tokens_read=512)
    store.close()
    beside = Store.open(data_dir, exclusive=False)
    assert beside.messages(session)[-1].finish is None
    beside.close()
    store = Store.open(data_dir)
    messages = store.messages(session)
    assert messages[1] == done
    assert messages[2:] == [*users, replace(half, finish="cancelled")]
    assert store.reading(session, reading.id) == replace(reading, tokens_read=512)
    store.close()


def test_files_without_a_row_are_swept_and_no_others(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    reading = store.create_reading(session, kind="document", name="n", text="text")
    add_version(store, session)
    folder = store.version_path(session, 1).parent.parent
    store.close()
    gone = data_dir / "sessions" / ("sess_" + "0" * 24)
    strays = [
        folder / "readings" / ("read_" + "0" * 24 + ".txt"),
        folder / "versions" / "2.safetensors",
        folder / "versions" / ".1.safetensors.abc.tmp",
        gone / "readings" / f"{reading.id}.txt",
        gone / "versions" / "1.safetensors",
    ]
    others = [
        data_dir / "sessions" / "sess_mine" / "1.safetensors",
        data_dir / "models" / "2.safetensors",
        folder / "versions" / "notes.txt",
    ]
    for path in (*strays, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    Store.open(data_dir, exclusive=False).close()
    assert all(path.exists() for path in strays)
    store = Store.open(data_dir)
    assert not any(path.exists() for path in (*strays, gone))
    assert all(path.exists() for path in others)
    assert store.reading_text(reading) == "text"
    assert store.version_path(session, 1).exists()
    store.close()


def test_sweep_survives_what_it_cannot_remove(data_dir: Path) -> None:
    store = Store.open(data_dir)
    path = store.version_path(make_session(store), 7)
    store.close()
    path.mkdir(parents=True)
    Store.open(data_dir).close()
    assert path.is_dir()


def test_a_crash_between_rows_and_files_of_a_deletion_is_finished(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluvial.store import store as store_module

    store = Store.open(data_dir)
    session = make_session(store)
    store.create_reading(session, kind="document", name="n", text="secret")

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module, "SessionFolder", crash)
    with pytest.raises(KeyboardInterrupt):
        store.delete_session(session)
    monkeypatch.undo()
    store.close()
    store = Store.open(data_dir)
    assert store.sessions(owner="ann") == []
    assert list((data_dir / "sessions").iterdir()) == []
    store.close()


def test_second_store_is_refused_and_names_the_process(data_dir: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from fluvial.store import Store\n"
        "store = Store.open(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(data_dir)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ConflictError, match=f"in use by process {holder.pid};") as caught:
            Store.open(data_dir)
        assert caught.value.code == "data_dir_in_use"
        beside = Store.open(data_dir, exclusive=False)
        beside.close()
        holder.kill()
    store = Store.open(data_dir)
    with pytest.raises(ConflictError, match=f"process {os.getpid()};"):
        Store.open(data_dir)
    store.close()
    Store.open(data_dir).close()


def test_a_failed_opening_lets_the_folder_go(data_dir: Path) -> None:
    data_dir.mkdir()
    path = data_dir / "fluvial.sqlite3"
    path.write_bytes(b"no database at all, but long enough to look like one" * 100)
    for _ in range(2):
        with pytest.raises(StorageError, match="not a Fluvial database") as caught:
            Store.open(data_dir)
        assert caught.value.code == "database_damaged"
    path.unlink()
    Store.open(data_dir).close()


def test_damaged_database_is_a_typed_error(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    for i in range(200):
        store.append_message(session, role="user", content=f"{i} " * 500, version=0)
    store.close()
    path = data_dir / "fluvial.sqlite3"
    data = bytearray(path.read_bytes())
    data[8192:-4096] = b"\xa5" * (len(data) - 12288)
    path.write_bytes(data)

    def use() -> None:
        store = Store.open(data_dir)
        try:
            store.messages(store.sessions(owner="ann")[0])
        finally:
            store.close()

    with pytest.raises(StorageError, match="damaged") as caught:
        use()
    assert caught.value.code == "database_damaged"


def test_lost_database_does_not_take_the_files_with_it(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    add_version(store, session)
    store.close()
    database = (data_dir / "fluvial.sqlite3").rename(data_dir / "backup")
    with pytest.raises(StorageError, match="missing") as caught:
        Store.open(data_dir)
    assert caught.value.code == "database_missing"
    database.rename(data_dir / "fluvial.sqlite3")
    store = Store.open(data_dir)
    assert store.version_path(session, 1).exists()
    store.close()


def test_newer_database_names_the_version_that_is_needed(data_dir: Path) -> None:
    Store.open(data_dir).close()
    path = data_dir / "fluvial.sqlite3"
    database = sqlite3.connect(path)
    database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.execute("UPDATE schema_info SET fluvial_version = '7.8.9'")
    database.commit()
    database.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match=r"install fluvial>=7\.8\.9") as caught:
        Store.open(data_dir)
    assert caught.value.code == "database_newer"
    assert fluvial.__version__ in caught.value.message
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["data", "data/fluvial.sqlite3"])
def test_something_else_in_the_place_is_a_storage_error(tmp_path: Path, where: str) -> None:
    path = tmp_path / where
    if where == "data":
        path.write_bytes(b"a file")
    else:
        path.mkdir(parents=True)
    with pytest.raises(StorageError):
        Store.open(tmp_path / "data")


def test_closed_store_says_so(data_dir: Path) -> None:
    store = Store.open(data_dir)
    session = make_session(store)
    store.close()
    store.close()
    for use in (
        lambda: store.messages(session),
        lambda: store.append_message(session, role="user", content="x", version=0),
    ):
        with pytest.raises(StorageError, match="closed") as caught:
            use()
        assert caught.value.code == "store_closed"
