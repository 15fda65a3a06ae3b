"""A disk that is really full: a small tmpfs. Needs the right to mount one."""

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.errors import StorageError
from fluvial.store import Store, write_atomically
from fluvial.store.reserve import RESERVE_BYTES
from fluvial.types import Message, Session, StoredMessage

from .sample import add_version, make_session

DISK_BYTES = 8 * 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode != 0:
        pytest.skip(f"not permitted to mount a small disk: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _append_until_full(
    store: Store, session: Session, *, size_bytes: int = 50_000
) -> list[StoredMessage]:
    """Append until the disk refuses; returns what was acknowledged."""
    kept: list[StoredMessage] = []
    while True:
        text = f"{len(kept)} " + "x" * size_bytes
        try:
            kept.append(store.append_message(session, role="user", content=text, version=0))
        except StorageError as refused:
            error = refused
            break
    assert error.code == "storage_full"
    assert "the disk is full" in error.message
    return kept


def _fill(disk: Path) -> Path:
    """Leave not one byte free, as another program would."""
    path = disk / "junk"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


def test_a_full_disk_refuses_and_keeps_what_was_acknowledged(disk: Path) -> None:
    store = Store.open(disk / "data")
    session = make_session(store)
    reading = store.create_reading(session, kind="document", name="n", text="before")
    kept = _append_until_full(store, session)
    assert len(kept) > 20
    for _ in range(3):
        with pytest.raises(StorageError):
            store.append_message(session, role="user", content="y" * 2**20, version=0)
    turn = [Message(role="user", content="y" * 2**20)]
    with pytest.raises(StorageError):
        store.append_turn(session, messages=turn, parent=kept[-1].id, version=0)
    assert store.messages(session) == kept
    assert store.reading_text(reading) == "before"
    store.close()
    _fill(disk)
    store = Store.open(disk / "data")
    assert store.messages(session) == kept
    assert store.reading_text(reading) == "before"
    with store._database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    store.close()


def test_files_that_do_not_fit_leave_nothing(disk: Path) -> None:
    store = Store.open(disk / "data")
    session = make_session(store)
    path = store.version_path(session, 1)
    write_atomically(path, b"old")
    with pytest.raises(StorageError) as caught:
        store.create_reading(session, kind="document", name="n", text="x" * DISK_BYTES)
    assert caught.value.code == "storage_full"
    with pytest.raises(StorageError):
        write_atomically(path, bytes(DISK_BYTES))
    assert path.read_bytes() == b"old"
    assert store.readings(session) == []
    files = [file for file in (disk / "data" / "sessions").rglob("*") if file.is_file()]
    assert files == [path]
    store.close()


def test_it_works_again_after_space_is_freed_outside(disk: Path) -> None:
    store = Store.open(disk / "data")
    session = make_session(store)
    junk = _fill(disk)
    kept = _append_until_full(store, session)
    with pytest.raises(StorageError):
        store.create_reading(session, kind="document", name="n", text="x" * 10_000)
    junk.unlink()
    kept.append(store.append_message(session, role="user", content="z" * 10**6, version=0))
    reading = store.create_reading(session, kind="document", name="n", text="x" * 10_000)
    assert store.messages(session) == kept
    store.close()
    store = Store.open(disk / "data")
    assert store.messages(session) == kept
    assert store.reading_text(reading) == "x" * 10_000
    store.close()


def test_deleting_works_on_a_full_disk_and_makes_room(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(disk / "data")
    big, small = make_session(store), make_session(store)
    first = store.append_message(small, role="user", content="keep me", version=0)
    add_version(store, small)
    _append_until_full(store, big)
    junk = _fill(disk)
    with pytest.raises(StorageError):
        store.append_message(small, role="user", content="y" * 100_000, version=0)
    with caplog.at_level(logging.WARNING):
        store.delete_session(big)
    assert "using the reserve" in caplog.text
    assert store.sessions(owner="ann")[0].id == small.id
    second = store.append_message(small, role="user", content="y" * 50_000, version=0)
    assert store.forget(small).version == 0
    assert store.messages(small) == [first, second]
    assert junk.exists()
    assert (disk / "data" / "reserve").stat().st_size > RESERVE_BYTES // 2
    store.close()
    store = Store.open(disk / "data")
    assert store.messages(small) == [first, second]
    store.close()


@pytest.mark.parametrize("times", [5])
def test_a_full_disk_can_be_opened_again_and_again(disk: Path, times: int) -> None:
    store = Store.open(disk / "data")
    session = make_session(store)
    turn = [Message(role="user", content="hi")]
    store.append_turn(session, messages=turn, parent=None, version=0)
    store.close()
    for _ in range(times):
        _fill(disk)
        store = Store.open(disk / "data")
        kept = store.messages(session)
        assert kept[1].finish == "cancelled"
        _append_until_full(store, session, size_bytes=5000)
        store.close()


def test_a_new_store_on_a_full_disk_is_a_storage_error(disk: Path) -> None:
    junk = _fill(disk)
    for _ in range(2):
        with pytest.raises(StorageError):
            Store.open(disk / "data")
    junk.unlink()
    store = Store.open(disk / "data")
    make_session(store)
    store.close()
