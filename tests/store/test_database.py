import contextlib
import sqlite3
import threading
from pathlib import Path

import pytest

from fluvial.errors import BusyError, ConflictError, StorageError
from fluvial.store import Store, database
from fluvial.types import Message, Session

from .sample import make_session


def test_connections_are_durable_and_check_references(store: Store) -> None:
    inner = store._database
    for open_block in (inner.read, inner.write):
        with open_block() as connection:
            pragmas = {
                name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            }
        assert pragmas == {
            "journal_mode": "wal",
            "synchronous": 2,  # FULL
            "foreign_keys": 1,
            "busy_timeout": 10_000,
        }


def test_read_blocks_cannot_write(store: Store) -> None:
    with pytest.raises(StorageError), store._database.read() as connection:
        connection.exec_driver_sql("DELETE FROM session")


def test_write_block_that_fails_changes_nothing(store: Store, session: Session) -> None:
    def fail_halfway() -> None:
        with store._database.write() as connection:
            connection.exec_driver_sql("DELETE FROM session")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert store.session(session.id, owner="ann") == session
    store.append_message(session, role="user", content="still works", version=0)


def test_readers_do_not_wait_for_the_writer(store: Store, session: Session) -> None:
    first = store.append_message(session, role="user", content="first", version=0)
    with store._database.write() as connection:
        connection.exec_driver_sql("UPDATE message SET content = 'not yet'")
        seen: list[object] = []
        readers = [
            threading.Thread(target=lambda: seen.append(store.messages(session))) for _ in range(8)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(timeout=20)
        assert seen == [[first]] * 8


def test_a_reader_sees_one_state_while_others_write(store: Store, session: Session) -> None:
    count = "SELECT count(*) FROM message"
    with store._database.read() as connection:
        assert connection.exec_driver_sql(count).scalar() == 0
        store.append_message(session, role="user", content="x", version=0)
        assert connection.exec_driver_sql(count).scalar() == 0
    assert len(store.messages(session)) == 1


def test_many_threads_lose_nothing(store: Store) -> None:
    sessions = [make_session(store) for _ in range(4)]
    errors: list[BaseException] = []

    def work(session: Session) -> None:
        try:
            for i in range(15):
                turn = [Message(role="user", content=str(i))]
                parent = messages[-1].id if (messages := store.messages(session)) else None
                _, answer = store.append_turn(session, messages=turn, parent=parent, version=0)
                store.update_message(answer, content=f"answer {i}", finish="stop")
                store.sessions(owner="ann")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(session,)) for session in sessions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for session in sessions:
        contents = [m.content for m in store.messages(session)]
        assert contents == [text for i in range(15) for text in (str(i), f"answer {i}")]


def test_two_processes_take_turns(store: Store, session: Session, data_dir: Path) -> None:
    """Two stores have two locks, as two processes do; only SQLite stands between them."""
    stores = [store, Store.open(data_dir, exclusive=False)]
    errors: list[BaseException] = []
    won: list[int] = []

    def work(store: Store) -> None:
        try:
            for i in range(40):
                turn = [Message(role="user", content=str(i))]
                parent = messages[-1].id if (messages := store.messages(session)) else None
                with contextlib.suppress(ConflictError):  # the other one was first
                    store.append_turn(session, messages=turn, parent=parent, version=0)
                    won.append(i)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(each,)) for each in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stores[1].close()
    assert errors == []
    assert [m.position for m in store.messages(session)] == list(range(2 * len(won)))


def test_a_locked_database_is_busy(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PRAGMAS", ("busy_timeout=10", *database._PRAGMAS[1:]))
    store = Store.open(data_dir)
    session = make_session(store)
    other = sqlite3.connect(data_dir / "fluvial.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError) as caught:
        store.append_message(session, role="user", content="x", version=0)
    assert caught.value.code == "storage_busy"
    assert store.messages(session) == []
    other.close()
    store.append_message(session, role="user", content="x", version=0)
    store.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "session WHERE owner = 'a' AND updated_at < 5 ORDER BY updated_at DESC",
            "session_by_owner",
        ),
        ("message WHERE session = 'a' ORDER BY position", "message_by_position"),
        ("message WHERE role = 'assistant' AND finish IS NULL", "message_unfinished"),
        ("reading WHERE session = 'a' ORDER BY number", "reading_by_session"),
        ("reading WHERE status IN ('queued', 'reading')", "reading_by_status"),
        ("score WHERE session = 'a' AND number > 5 ORDER BY number", "autoindex_score"),
        ("score WHERE reading = 'a' AND start >= 5", "score_by_reading"),
        ("version WHERE session = 'a' ORDER BY number", "autoindex_version"),
    ],
)
def test_queries_use_an_index_and_do_not_sort(store: Store, query: str, index: str) -> None:
    with store._database.read() as connection:
        explain = f"EXPLAIN QUERY PLAN SELECT * FROM {query}"  # noqa: S608
        plan = connection.exec_driver_sql(explain).all()
    text = " ".join(row[3] for row in plan)
    assert index in text
    assert "TEMP B-TREE" not in text


def test_deleting_gives_the_space_back(store: Store, session: Session, data_dir: Path) -> None:
    for _ in range(4):
        store.append_message(session, role="user", content="x" * 10**6, version=0)
    kept = make_session(store)
    message = store.append_message(kept, role="user", content="y" * 10**5, version=0)
    store.delete_session(session)
    assert store.messages(kept) == [message]
    store.close()
    assert (data_dir / "fluvial.sqlite3").stat().st_size < 600_000


def test_deleted_words_are_not_left_in_the_file(
    store: Store, session: Session, data_dir: Path
) -> None:
    store.append_message(session, role="user", content="my secret word", version=0)
    store.delete_session(session)
    store.close()
    assert b"secret" not in (data_dir / "fluvial.sqlite3").read_bytes()
