"""The audit log: what is appended stays, in order, whoever appends, and every meddling shows."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.errors import NotFoundError, StorageError
from fluvial.store import audit_text
from fluvial.store.audit import AuditLog
from fluvial.store.audit_check import find_last, read_back, read_entries, verify
from fluvial.store.audit_entry import MAX_VALUE_CHARS, Entry
from fluvial.store.audit_folder import AuditFolder, Head

WRITER = """
import sys
from pathlib import Path
from fluvial.store.audit import AuditLog

log = AuditLog.open(Path(sys.argv[1]), segment_bytes=int(sys.argv[3]))
for number in range(int(sys.argv[2])):
    log.append("test.done", actor=sys.argv[4], subject="x", detail={"number": number})
    print(number, flush=True)
"""


def fill(data_dir: Path, *, entries: int = 6, segment_bytes: int = 2**20) -> AuditLog:
    log = AuditLog.open(data_dir, segment_bytes=segment_bytes)
    for number in range(entries):
        log.append("test.done", actor="ann", subject=f"s{number}", detail={"number": number})
    return log


def segment(data_dir: Path) -> Path:
    return AuditFolder(data_dir).list_segments()[-1]


def test_entries_come_back_as_they_were_appended(data_dir: Path) -> None:
    log = AuditLog.open(data_dir)
    detail = {"text": "e\u0301 中 \ud800", "whole": 3, "part": 0.1, "yes": True, "none": None}
    log.append("guard.refused", actor="ann", subject="sess_1", detail=detail)
    begun, entry = read_entries(data_dir)
    assert (begun.kind, begun.number) == ("audit.begun", 1)
    assert (entry.kind, entry.actor, entry.subject) == ("guard.refused", "ann", "sess_1")
    assert entry.detail == detail
    assert entry.previous == begun.sha256
    assert log.head == Head(number=2, sha256=entry.sha256)


def test_the_chain_goes_on_after_a_restart(data_dir: Path) -> None:
    fill(data_dir)
    fill(data_dir)
    found = verify(data_dir)
    assert (found.problem, found.entries, found.first) == (None, 13, 1)


def test_no_log_is_no_sound_log(data_dir: Path) -> None:
    with pytest.raises(NotFoundError):
        verify(data_dir)


def test_files_are_for_their_owner_alone(data_dir: Path) -> None:
    fill(data_dir)
    modes = {path.stat().st_mode & 0o077 for path in (data_dir / "audit").rglob("*")}
    assert modes == {0}
    assert (data_dir / "audit").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("kind", "detail"),
    [
        ("no kind", {}),
        ("test.done", {"text": "x" * (MAX_VALUE_CHARS + 1)}),
        ("test.done", {"number": float("nan")}),
        ("test.done", {str(number): 0 for number in range(65)}),
        ("test.done", {str(number): "\0" * 1999 for number in range(10)}),
        ("test.done", {"list": [1]}),
    ],
)
def test_what_is_no_entry_is_refused_and_leaves_no_trace(
    data_dir: Path, kind: str, detail: dict[str, str]
) -> None:
    log = fill(data_dir)
    before = segment(data_dir).read_bytes()
    with pytest.raises(ValueError, match=r"kind|limit|JSON|neither"):
        log.append(kind, actor="ann", subject="x", detail=detail)
    assert segment(data_dir).read_bytes() == before


Meddling = Callable[[list[bytes]], list[bytes]]


def _forge(line: bytes) -> bytes:
    """Change an entry and give it the hash that belongs to it then."""
    entry = Entry.decode(line)
    return replace(entry, actor="bob").encode()


MEDDLINGS: dict[str, tuple[Meddling, int, str]] = {
    "changed": (lambda e: [*e[:2], e[2].replace(b"ann", b"bob"), *e[3:]], 3, "was changed"),
    "changed with its hash": (lambda e: [*e[:2], _forge(e[2]), *e[3:]], 4, "does not follow"),
    "last changed with its hash": (lambda e: [*e[:-1], _forge(e[-1])], 7, "another one"),
    "removed": (lambda e: [*e[:2], *e[3:]], 3, "entry 4 stands where 3 belongs"),
    "first removed": (lambda e: e[1:], 1, "are missing"),
    "reordered": (lambda e: [*e[:2], e[3], e[2], *e[4:]], 3, "entry 4 stands where 3 belongs"),
    "doubled": (lambda e: [*e[:3], e[2], *e[3:]], 4, "entry 3 stands where 4 belongs"),
    "truncated": (lambda e: e[:-2], 6, "entries 6 to 7 are missing"),
    "truncated within": (lambda e: [*e[:-1], e[-1][:9]], 7, "entries 7 to 7 are missing"),
    "emptied": (lambda e: [], 1, "entries 1 to 7 are missing"),
    "spaced": (lambda e: [*e[:2], e[2].replace(b",", b", "), *e[3:]], 3, "not written as"),
    "a key twice": (
        lambda e: [*e[:2], e[2].replace(b"{", b'{"actor":"bob",', 1), *e[3:]],
        3,
        "not written as",
    ),
    "garbage": (lambda e: [*e[:2], b"\xff\0\n", *e[3:]], 3, "not JSON"),
    "deep": (lambda e: [*e[:2], b"[" * 60_000 + b"\n", *e[3:]], 3, "not JSON"),
    "endless": (lambda e: [*e[:2], b"x" * 10**6 + b"\n", *e[3:]], 3, "over the limit"),
}


@pytest.mark.parametrize("name", MEDDLINGS)
def test_meddling_is_found_at_the_first_entry_it_broke(data_dir: Path, name: str) -> None:
    meddle, number, why = MEDDLINGS[name]
    fill(data_dir)
    path = segment(data_dir)
    path.write_bytes(b"".join(meddle(path.read_bytes().splitlines(keepends=True))))
    found = verify(data_dir)
    assert found.problem is not None
    assert why in found.problem
    assert found.broken == number


def test_every_single_byte_counts(data_dir: Path) -> None:
    fill(data_dir, entries=1)
    path = segment(data_dir)
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert verify(data_dir).problem is not None, place
    path.write_bytes(whole)
    assert verify(data_dir).problem is None


@pytest.mark.parametrize("damage", ["missing", "old", "foreign", "garbage"])
def test_the_head_file_is_held_to_the_log(data_dir: Path, damage: str) -> None:
    fill(data_dir)
    head = data_dir / "audit" / "head.json"
    if damage == "missing":
        head.unlink()
    elif damage == "garbage":
        head.write_bytes(b"[" * 4000)
    elif damage == "foreign":
        head.write_text(json.dumps({**json.loads(head.read_text()), "number": 6}))
    else:  # an older head is no damage: a process may die between an entry and the head
        AuditFolder(data_dir).write_head(_head_of(data_dir, number=3))
        assert verify(data_dir).problem is None
        return
    problem = verify(data_dir).problem
    assert problem is not None
    assert "head file" in problem


def _head_of(data_dir: Path, *, number: int) -> Head:
    return next(
        Head(number=entry.number, sha256=entry.sha256)
        for entry in read_entries(data_dir)
        if entry.number == number
    )


def test_a_head_kept_elsewhere_finds_a_log_that_was_written_anew(data_dir: Path) -> None:
    log = fill(data_dir)
    kept = log.head
    assert verify(data_dir, expected=kept).problem is None
    for path in [*AuditFolder(data_dir).list_segments(), data_dir / "audit" / "key"]:
        path.unlink()
    fill(data_dir, entries=20)
    assert verify(data_dir).problem is None  # nothing inside tells
    assert "another one" in str(verify(data_dir, expected=kept).problem)


def test_appending_does_not_heal_a_log_whose_end_was_removed(data_dir: Path) -> None:
    fill(data_dir)
    path = segment(data_dir)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    fill(data_dir, entries=9)
    found = verify(data_dir)
    assert found.broken == 6
    assert "entries at the end are missing" in str(found.problem)


def test_half_a_line_of_a_dead_process_is_cut_off_on_record(data_dir: Path) -> None:
    fill(data_dir)
    with segment(data_dir).open("ab") as file:
        file.write(b'{"actor":"an')
    found = verify(data_dir)
    assert (found.problem, found.torn_bytes) == (None, 12)
    fill(data_dir, entries=1)
    assert verify(data_dir).problem is None
    repaired = next(entry for entry in read_entries(data_dir) if entry.kind == "audit.repaired")
    assert repaired.detail == {"bytes": 12}


def test_a_damaged_end_is_not_gone_on_with(data_dir: Path) -> None:
    fill(data_dir)
    with segment(data_dir).open("ab") as file:
        file.write(b"{}\n")
    with pytest.raises(StorageError, match="move .*audit away") as error:
        AuditLog.open(data_dir)
    assert error.value.code == "audit_damaged"


def test_the_key_is_not_made_anew_for_entries_that_are_there(data_dir: Path) -> None:
    fill(data_dir)
    (data_dir / "audit" / "key").unlink()
    with pytest.raises(StorageError, match="its key is missing"):
        AuditLog.open(data_dir)
    assert "key" in str(verify(data_dir).problem)


def test_the_chain_goes_on_over_files(data_dir: Path) -> None:
    log = fill(data_dir, entries=50, segment_bytes=1000)
    assert len(AuditFolder(data_dir).list_segments()) > 10
    assert verify(data_dir).entries == 51
    assert log.head.number == 51
    AuditFolder(data_dir).list_segments()[4].unlink()
    assert "stands where" in str(verify(data_dir).problem)


def test_the_oldest_go_over_the_limit_and_the_log_says_so(data_dir: Path) -> None:
    log = AuditLog.open(data_dir, limit_bytes=4000, segment_bytes=1000)
    for number in range(100):
        log.append("test.done", actor="ann", subject="x", detail={"number": number})
    segments = AuditFolder(data_dir).list_segments()
    assert sum(path.stat().st_size for path in segments) < 7000
    found = verify(data_dir)
    assert found.problem is None
    assert found.first > 1
    segments[0].unlink()  # without an entry that says so
    assert "are missing, and no entry says" in str(verify(data_dir).problem)


def test_many_threads_and_two_processes_make_one_chain(data_dir: Path) -> None:
    AuditLog.open(data_dir)
    command = [sys.executable, "-c", WRITER, str(data_dir), "40", "2000", "other"]
    log = AuditLog.open(data_dir, segment_bytes=2000)

    def append(name: str) -> None:
        for number in range(10):
            log.append("test.done", actor=name, subject="x", detail={"number": number})

    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        threads = [threading.Thread(target=append, args=(f"t{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert verify(data_dir).problem is None
        for thread in threads:
            thread.join()
    entries = list(read_entries(data_dir))
    assert verify(data_dir).entries == len(entries) == 1 + 80 + 40
    for actor in [*(f"t{n}" for n in range(8)), "other"]:
        numbers = [int(str(entry.detail["number"])) for entry in entries if entry.actor == actor]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("lines", [1, 20, 77, 140])
def test_a_kill_leaves_a_whole_chain_with_all_that_was_acknowledged(
    data_dir: Path, lines: int
) -> None:
    command = [sys.executable, "-c", WRITER, str(data_dir), "100000", "3000", "x"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        seen = [int(writer.stdout.readline()) for _ in range(lines)]
        writer.kill()
        seen += [int(n) for n in re.findall(r"(\d+)\n", writer.stdout.read())]
    assert verify(data_dir).problem is None
    fill(data_dir, entries=1)
    assert verify(data_dir).problem is None
    done = [entry.detail["number"] for entry in read_entries(data_dir) if entry.actor == "x"]
    assert done[: len(seen)] == seen
    assert len(done) <= len(seen) + 1


def test_refused_entries_are_told_by_the_next_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = fill(data_dir)
    write, full = os.write, [True]

    def write_half(file: int, data: bytes) -> int:
        if not full[0]:
            return write(file, data)
        if data.startswith(b"{"):
            return write(file, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_half)
    for _ in range(2):
        with pytest.raises(StorageError, match="disk is full"):
            log.append("test.done", actor="ann", subject="x", detail={})
    assert log.missed == 2
    full[0] = False
    log.append("test.done", actor="ann", subject="x", detail={})
    assert verify(data_dir).problem is None
    *_, missed, _ = read_entries(data_dir)
    assert (missed.kind, missed.detail) == ("audit.missed", {"entries": 2})


def test_texts_are_digests_that_another_installation_can_not_compare(tmp_path: Path) -> None:
    one, other = AuditLog.open(tmp_path / "one"), AuditLog.open(tmp_path / "other")
    told = one.describe("yes", session="sess_" + "0" * 24)
    assert told == one.describe("yes")
    assert told["text_chars"] == 3
    assert told["text_hmac"] != one.describe("no")["text_hmac"]
    assert told["text_hmac"] != other.describe("yes")["text_hmac"]
    assert not (tmp_path / "one" / "audit" / "texts").exists()


def test_texts_are_kept_only_if_asked_for_and_go_with_their_session(data_dir: Path) -> None:
    session = "sess_" + "0" * 24
    log = AuditLog.open(data_dir, keep_texts=True)
    detail = log.describe("my secret \ud800", session=session)
    log.describe("of no session")
    log.append("guard.refused", actor="ann", subject=session, detail=detail)
    kept = list((data_dir / "audit" / "texts").glob("*/*"))
    assert len(kept) == 2
    log.forget(session)
    log.forget(session)
    log.forget("../../..")
    assert [path.parent.name for path in (data_dir / "audit" / "texts").glob("*/*")] == ["none"]
    assert verify(data_dir).problem is None
    everything = b"".join(p.read_bytes() for p in data_dir.rglob("*") if p.is_file())
    assert b"my secret" not in everything


def test_reading_from_the_end_gives_the_same_the_other_way_round(data_dir: Path) -> None:
    log = fill(data_dir, entries=30, segment_bytes=1000)
    assert list(read_back(data_dir)) == list(read_entries(data_dir))[::-1]
    found = find_last(data_dir, "test.done")
    assert found is not None
    assert found.sha256 == log.head.sha256
    assert find_last(data_dir, "test.none") is None


def test_texts_go_when_the_oldest_entries_do(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_text, "GRACE_S", 0.5)
    log = AuditLog.open(data_dir, limit_bytes=3000, segment_bytes=1000, keep_texts=True)
    for number in range(40):
        if number == 20:
            time.sleep(0.7)
        detail = log.describe(f"text {number}")
        log.append("test.done", actor="ann", subject="x", detail=detail)
    kept = {path.stem for path in (data_dir / "audit" / "texts").glob("*/*.txt")}
    told = {entry.detail.get("text_hmac") for entry in read_entries(data_dir)} - {None}
    assert len(kept) <= 20
    assert told - kept == set()
