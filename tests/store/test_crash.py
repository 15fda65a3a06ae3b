"""A process that is killed in the middle of writing loses nothing that it was told is safe."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fluvial.store import Store
from fluvial.types import BASE_VERSION

WRITER = """
import json, sys
from pathlib import Path
from fluvial.store import UNSET, Store, write_atomically
from fluvial.types import ChunkScore, Message, Version

store = Store.open(Path(sys.argv[1]))
session = store.create_session(owner="ann", title="t", model="m", checkpoint="c", learning="on")
print(json.dumps(session.id), flush=True)

def read(i):
    reading = store.create_reading(session, kind="document", name=str(i), text=f"text {i} " * 500)
    store.update_reading(reading, status="reading")
    store.append_score(ChunkScore(
        session=session.id, reading=reading.id, start=i, tokens=1, bytes=1, frozen_nats=2.0,
        adapted_nats=1.0, version=0, learned=True, created_at=1.0))
    number = store.next_version(session)
    write_atomically(store.version_path(session, number), b"tensors %d" % number * 1000)
    version = Version(
        session=session.id, number=number, parent=0, reading=reading.id, tokens_learned=1,
        updates=1, drift=0.5, bytes=1, sha256="", created_at=1.0)
    store.add_version(version, reading=reading, tokens_read=i, status="done")
    return reading.id, number

i = 0
while True:
    text = f"message {i} " * (1 + i % 500)
    turn = [Message(role="user", content=text)]
    _, answer = store.append_turn(session, messages=turn, parent=UNSET, version=0)
    print(json.dumps(["turn", i]), flush=True)
    store.update_message(answer, content=f"answer {i}", finish="stop")
    print(json.dumps(["answer", i]), flush=True)
    print(json.dumps(["read", *read(i)]), flush=True)
    i += 1
"""


@pytest.mark.parametrize("lines", [2, 60, 151])
def test_kill_in_the_middle_of_writes_loses_nothing(data_dir: Path, lines: int) -> None:
    id, acknowledged = _write_until_killed(data_dir, lines=lines)
    database = sqlite3.connect(data_dir / "fluvial.sqlite3")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
    store = Store.open(data_dir)
    _check(store, id, acknowledged)
    store.close()


def _write_until_killed(data_dir: Path, *, lines: int) -> tuple[str, list[list[object]]]:
    command = [sys.executable, "-c", WRITER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        id = json.loads(writer.stdout.readline())
        seen = [json.loads(writer.stdout.readline()) for _ in range(lines)]
        writer.kill()
        rest = writer.stdout.read().splitlines(keepends=True)
    return id, seen + [json.loads(line) for line in rest if line.endswith("\n")]


def _check(store: Store, id: str, acknowledged: list[list[object]]) -> None:
    session = store.session(id, owner="ann")
    messages = store.messages(session)
    users, answers = messages[::2], messages[1::2]
    assert len(users) == len(answers)
    assert [m.content for m in users] == [
        f"message {i} " * (1 + i % 500) for i in range(len(users))
    ]
    assert all(m.finish in ("stop", "cancelled") for m in answers)
    readings = {reading.id: reading for reading in store.readings(session)}
    versions = {version.number: version for version in store.versions(session)}
    for kind, *rest in acknowledged:
        if kind == "turn":
            assert rest[0] < len(users)
        elif kind == "answer":
            assert (answers[rest[0]].content, answers[rest[0]].finish) == (
                f"answer {rest[0]}",
                "stop",
            )
        else:
            reading, number = rest
            assert readings[reading].status == "done"
            assert versions[number].reading == reading
    _check_files(store, id)
    assert session.version == max(versions, default=BASE_VERSION)
    assert len(store.scores(session)) >= len(versions)


def _check_files(store: Store, id: str) -> None:
    """Every row has its whole file, and every file has its row."""
    session = store.session(id, owner="ann")
    readings, versions = store.readings(session), store.versions(session)
    for reading in readings:
        assert reading.status in ("queued", "done")
        assert store.reading_text(reading) == f"text {reading.name} " * 500
    for version in versions:
        data = store.version_path(session, version.number).read_bytes()
        assert data == b"tensors %d" % version.number * 1000
    folder = store.version_path(session, 1).parent.parent
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) == len(readings) + len(versions)
