"""The audit log: what was done here, by whom, in a chain of hashes that only grows.

Entries lie in files of lines beside the database (see `audit_folder.py`): a log should outlive a
database that is damaged or put back from a backup, and be read with nothing but a pager. Each is
on the disk before `append` returns. `audit_check.py` tells whether the chain is whole.
"""

import logging
import os
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from fluvial.errors import StorageError
from fluvial.store.audit_entry import MAX_LINE_BYTES, Detail, Entry, check
from fluvial.store.audit_folder import AuditFolder, Head
from fluvial.store.audit_text import Texts
from fluvial.store.fault import translate_os
from fluvial.store.file import sync_folder

SEGMENT_BYTES = 8 * 2**20
"""A file of entries ends here; the next one goes on with the same chain."""

BEGUN = "audit.begun"
REPAIRED = "audit.repaired"
MISSED = "audit.missed"
DROPPED = "audit.dropped"
BROKEN = "audit.broken"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Tail:
    """Where the log ends: in which file, after how many bytes of it, with which entry."""

    path: Path
    size_bytes: int
    head: Head


@final
class AuditLog:
    """The log of one data folder. Threads and processes may append to it at the same time."""

    def __init__(self, folder: AuditFolder, *, limit_bytes: int, segment_bytes: int, texts: Texts):
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._texts = texts
        self._lock = threading.Lock()
        self._tail: _Tail | None = None
        self._missed = 0

    @staticmethod
    def open(
        data_dir: Path,
        *,
        limit_bytes: int = 2**30,
        segment_bytes: int = SEGMENT_BYTES,
        keep_texts: bool = False,
    ) -> "AuditLog":
        """Open the log in `data_dir`, begun when there is none; repairs a line cut off by a crash.

        Over `limit_bytes` the oldest files go, on record. Raises StorageError, with the code
        `audit_damaged` where the log can't be gone on with.
        """
        folder = AuditFolder(data_dir)
        folder.make()
        texts = Texts(folder.texts, key=folder.read_key(), keep=keep_texts)
        log = AuditLog(folder, limit_bytes=limit_bytes, segment_bytes=segment_bytes, texts=texts)
        with log._lock, folder.lock():
            log._catch_up()
        return log

    @property
    def head(self) -> Head:
        """Return the last entry that this object knows of; keep it elsewhere to hold the log to."""
        with self._lock:
            return Head() if self._tail is None else self._tail.head

    @property
    def missed(self) -> int:
        """Tell how many entries the disk refused since the last one that it took."""
        return self._missed

    def append(self, kind: str, *, actor: str, subject: str, detail: Detail) -> None:
        """Put an entry on record; once this returns, it survives a `kill -9` and a power cut.

        Raises StorageError when the disk refuses: the next entry that it takes then says how many
        are missing. Raises ValueError for what can't be an entry (see `audit_entry`).
        """
        draft = Entry(
            number=0,
            time=time.time(),
            kind=kind,
            actor=actor,
            subject=subject,
            detail=dict(detail),
            previous="",
        )
        check(draft)
        with self._lock:
            try:
                with self._folder.lock():
                    self._catch_up()
                    self._tell_missed()
                    self._write(draft)
            except StorageError:
                self._missed += 1
                self._tail = None  # a part of the line may stand there
                raise

    def describe(self, text: str, *, session: str | None = None) -> dict[str, str | int]:
        """Return what `detail` may say of a text: a keyed digest, and how long it is.

        Where the setting keeps texts, this one is kept beside the log until `forget(session)`.
        """
        return self._texts.describe(text, session=session)

    def digest(self, text: str) -> str:
        """Return the keyed digest of a secret, which is never kept."""
        return self._texts.digest(text)

    def forget(self, session: str) -> None:
        """Remove what was kept of a session's texts; entries and their chain stay."""
        self._texts.forget(session)

    # Below

    def _catch_up(self) -> None:
        """Make `_tail` true: another process may have written, or a dead one left half a line."""
        segments = self._folder.list_segments()
        with translate_os("reading the audit log"):
            size_bytes = segments[-1].stat().st_size if segments else 0
        known = self._tail
        if known and segments and (known.path, known.size_bytes) == (segments[-1], size_bytes):
            return
        self._tail, torn_bytes = _recover(self._folder, segments)
        if torn_bytes:
            _log.warning("the audit log ended in %d bytes of half an entry", torn_bytes)
            self._note(REPAIRED, {"bytes": torn_bytes})
        self._hold_to_head()
        if self._tail.head.number == 0:
            self._note(BEGUN, {})

    def _hold_to_head(self) -> None:
        """Say it in the log itself where its end is not what the head file knows."""
        tail = self._require_tail()
        expected = None
        try:
            expected = self._folder.read_head()
            lost = expected.number > tail.head.number or (
                expected.number == tail.head.number and expected != tail.head
            )
            why = "entries at the end are missing"
        except ValueError as error:
            lost, why = True, str(error)
        if lost:
            _log.error("the audit log is not whole: %s", why)
            number = None if expected is None else expected.number
            self._note(BROKEN, {"why": why, "found": tail.head.number, "expected": number})

    def _tell_missed(self) -> None:
        if self._missed:
            self._note(MISSED, {"entries": self._missed})
            self._missed = 0

    def _note(self, kind: str, detail: Detail) -> None:
        draft = Entry(
            number=0,
            time=time.time(),
            kind=kind,
            actor="system",
            subject="audit",
            detail=detail,
            previous="",
        )
        self._write(draft)

    def _write(self, draft: Entry) -> None:
        tail = self._require_tail()
        if tail.size_bytes >= self._segment_bytes:
            path = self._folder.name_segment(tail.head.number + 1)
            self._tail = replace(tail, path=path, size_bytes=0)
            self._write_line(draft)
            self._drop_oldest()
        else:
            self._write_line(draft)

    def _write_line(self, draft: Entry) -> None:
        tail = self._require_tail()
        entry = replace(draft, number=tail.head.number + 1, previous=tail.head.sha256)
        line = entry.encode()
        with translate_os("writing the audit log"):
            _append_synced(tail.path, line)
            if tail.size_bytes == 0:
                sync_folder(tail.path.parent)
        head = Head(number=entry.number, sha256=entry.sha256)
        self._tail = replace(tail, size_bytes=tail.size_bytes + len(line), head=head)
        self._folder.write_head(head)

    def _drop_oldest(self) -> None:
        """Remove the oldest files over the limit, each after an entry that says where it ended."""
        segments = self._folder.list_segments()
        with translate_os("removing old entries of the audit log"):
            total_bytes = sum(path.stat().st_size for path in segments)
            for oldest, following in zip(segments, segments[1:], strict=False):
                if total_bytes <= self._limit_bytes:
                    break
                first = _read_first(following)
                self._write_line(_describe_drop(first))
                total_bytes -= oldest.stat().st_size
                oldest.unlink()
                self._texts.drop_before(first.time)

    def _require_tail(self) -> _Tail:
        assert self._tail is not None  # noqa: S101 - `_catch_up` comes first
        return self._tail


def _describe_drop(first: Entry) -> Entry:
    detail: Detail = {"through": first.number - 1, "sha256": first.previous}
    return replace(
        first, time=time.time(), kind=DROPPED, actor="system", subject="audit", detail=detail
    )


def _append_synced(path: Path, line: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        written = 0
        while written < len(line):
            written += os.write(file, line[written:])
        os.fsync(file)
    finally:
        os.close(file)


def _recover(folder: AuditFolder, segments: list[Path]) -> tuple[_Tail, int]:
    """Find the last whole entry, and cut off what follows it; return how much that was."""
    torn_bytes = 0
    for path in reversed(segments):
        with translate_os("reading the audit log"):
            line, size_bytes, torn = _read_last(path)
            if torn:
                os.truncate(path, size_bytes)
        torn_bytes += torn
        if line:
            entry = _decode(line, path)
            head = Head(number=entry.number, sha256=entry.sha256)
            return _Tail(path=path, size_bytes=size_bytes, head=head), torn_bytes
    return _Tail(path=folder.name_segment(1), size_bytes=0, head=Head()), torn_bytes


def _read_last(path: Path) -> tuple[bytes, int, int]:
    """Return the last whole line, where it ends, and how many bytes follow it."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size_bytes - 2 * MAX_LINE_BYTES))
        data = file.read()
    end = data.rfind(b"\n") + 1
    line = data[data.rfind(b"\n", 0, max(0, end - 1)) + 1 : end]
    return line, start + end, len(data) - end


def _read_first(path: Path) -> Entry:
    with path.open("rb") as file:
        return _decode(file.readline(MAX_LINE_BYTES), path)


def _decode(line: bytes, path: Path) -> Entry:
    try:
        return Entry.decode(line)
    except ValueError as error:
        raise StorageError(
            f"the audit log can't be gone on with: an entry in {path.name} is damaged ({error}). "
            f"To begin a new log, move {path.parent} away and keep it",
            code="audit_damaged",
        ) from None
