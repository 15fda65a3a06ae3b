"""Reading the audit log, and holding it to its chain: with the server running, and without it.

What is found: entries that were changed, removed or put in another order, files that are missing,
and a tail that was cut off, since the head file (or a head kept elsewhere) knows where the log
ended. What is not: a chain that someone with the rights of the server wrote anew from an entry on,
head file included. Against that, keep heads on another machine and give them to `verify`.
"""

import contextlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from fluvial.errors import NotFoundError, StorageError
from fluvial.store.audit import BROKEN, DROPPED
from fluvial.store.audit_entry import FIRST_PREVIOUS, MAX_LINE_BYTES, Entry
from fluvial.store.audit_folder import AuditFolder, Head
from fluvial.store.fault import translate_os


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a check found. `problem` says what is wrong first, at entry `broken`; None: whole."""

    entries: int
    first: int
    head: Head
    problem: str | None = None
    broken: int | None = None
    torn_bytes: int = 0


@dataclass(kw_only=True)
class _Chain:
    """Follows lines from the first on; stops at the first that does not belong."""

    entries: int = 0
    first: Entry | None = None
    last: Entry | None = None
    heads: dict[int, str] = field(default_factory=dict[int, str])
    dropped: dict[int, str] = field(default_factory=dict[int, str])
    noted: Entry | None = None
    problem: str | None = None
    broken: int | None = None

    def follow(self, line: bytes, *, wanted: Iterable[int]) -> bool:
        number = 1 if self.last is None else self.last.number + 1
        try:
            entry = Entry.decode(line)
        except ValueError as error:
            return self._break(number, f"entry {number} was changed: {error}")
        if self.last is not None and entry.number != number:
            return self._break(number, f"entry {entry.number} stands where {number} belongs")
        if self.last is not None and entry.previous != self.last.sha256:
            return self._break(number, f"entry {number} does not follow from the one before it")
        self._take(entry, wanted=wanted)
        return True

    def _take(self, entry: Entry, *, wanted: Iterable[int]) -> None:
        self.entries += 1
        self.first = self.first or entry
        self.last = entry
        if entry.number in wanted:
            self.heads[entry.number] = entry.sha256
        if entry.kind == BROKEN and self.noted is None:
            self.noted = entry
        if entry.kind == DROPPED:
            self.dropped[_whole(entry.detail.get("through"))] = str(entry.detail.get("sha256"))

    def _break(self, number: int, problem: str) -> bool:
        self.broken, self.problem = number, problem
        return False


def verify(data_dir: Path, *, expected: Head | None = None) -> Verified:
    """Check the whole log. `expected` is a head that was kept elsewhere.

    Raises NotFoundError when there is none, StorageError when it can't be read.
    """
    folder = AuditFolder(data_dir)
    head, problem = None, None
    with _hold(folder) as snapshot:
        try:
            head = folder.read_head()
        except ValueError as error:
            problem = str(error)
        except StorageError as error:
            problem = error.message
    if not snapshot and head is None:
        raise NotFoundError(f"there is no audit log in {folder.path}")
    found = check_lines(read_lines(snapshot), heads=[each for each in (head, expected) if each])
    if found.problem is None and problem is not None:
        return _with_problem(found, problem, broken=found.head.number + 1)
    return found


def check_lines(lines: Iterable[bytes], *, heads: Iterable[Head] = ()) -> Verified:
    """Check entries as lines, and that the log still holds each of `heads`."""
    chain, torn_bytes = _Chain(), 0
    heads = list(heads)
    wanted = {head.number for head in heads}
    for line in lines:
        if torn_bytes:  # only the very last line may be half written
            chain.follow(b"", wanted=wanted)
            break
        if not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
            torn_bytes = len(line)
        elif not chain.follow(line, wanted=wanted):
            break
    found = _sum_up(chain, torn_bytes=torn_bytes)
    if found.problem is not None:
        return found
    for head in heads:
        found = _hold_to(found, chain, head)
    return found


def read_entries(data_dir: Path) -> Iterator[Entry]:
    """Yield the entries in order. Raises StorageError at one that was changed, NotFoundError."""
    folder = AuditFolder(data_dir)
    with _hold(folder) as snapshot:
        pass
    if not snapshot:
        raise NotFoundError(f"there is no audit log in {folder.path}")
    for line in read_lines(snapshot):
        if not line.endswith(b"\n"):
            return
        yield _decode(line)


def read_back(data_dir: Path) -> Iterator[Entry]:
    """Yield the entries from the last to the first, a file at a time. Raises as `read_entries`."""
    folder = AuditFolder(data_dir)
    with _hold(folder) as snapshot:
        pass
    if not snapshot:
        raise NotFoundError(f"there is no audit log in {folder.path}")
    for part in reversed(snapshot):
        for line in reversed([line for line in read_lines([part]) if line.endswith(b"\n")]):
            yield _decode(line)


def find_last(data_dir: Path, kind: str) -> Entry | None:
    """Return the last entry of a kind, None where there is none. Raises StorageError."""
    return next((entry for entry in read_back(data_dir) if entry.kind == kind), None)


def read_snapshot(data_dir: Path) -> Iterator[bytes]:
    """Yield the lines of the log as it is now, unchecked."""
    with _hold(AuditFolder(data_dir)) as snapshot:
        pass
    return read_lines(snapshot)


def read_lines(snapshot: list[tuple[Path, int]]) -> Iterator[bytes]:
    """Yield the lines of files, each up to its size; the last may be without its end."""
    for path, size_bytes in snapshot:
        with translate_os(f"reading {path.name}"), path.open("rb") as file:
            left_bytes = size_bytes
            while left_bytes > 0:
                line = file.readline(min(left_bytes, MAX_LINE_BYTES + 1))
                if not line:
                    break
                left_bytes -= len(line)
                yield line


def _decode(line: bytes) -> Entry:
    try:
        return Entry.decode(line)
    except ValueError as error:
        raise StorageError(
            f"an entry is damaged ({error}); `fluvial audit verify` says which",
            code="audit_damaged",
        ) from None


@contextlib.contextmanager
def _hold(folder: AuditFolder) -> Generator[list[tuple[Path, int]]]:
    """Give the files and their sizes between two entries; the block runs before the next one."""
    if not (folder.path / "lock").exists():
        yield [(path, path.stat().st_size) for path in folder.list_segments()]
        return
    with folder.lock(shared=True):
        yield [(path, path.stat().st_size) for path in folder.list_segments()]


def _sum_up(chain: _Chain, *, torn_bytes: int) -> Verified:
    last = chain.last
    found = Verified(
        entries=chain.entries,
        first=0 if chain.first is None else chain.first.number,
        head=Head() if last is None else Head(number=last.number, sha256=last.sha256),
        problem=chain.problem,
        broken=chain.broken,
        torn_bytes=torn_bytes,
    )
    if found.problem is not None:
        return found
    problem = _check_beginning(chain)
    if problem is not None:
        return _with_problem(found, problem, broken=1)
    if chain.noted is not None:
        why = f"entry {chain.noted.number} says that the log was broken there: "
        return _with_problem(
            found, why + str(chain.noted.detail.get("why")), broken=chain.noted.number
        )
    return found


def _check_beginning(chain: _Chain) -> str | None:
    first = chain.first
    if first is None:
        return None
    if first.number == 1:
        whole = first.previous == FIRST_PREVIOUS
        return None if whole else "entry 1 follows from another one"
    if chain.dropped.get(first.number - 1) == first.previous:
        return None
    return f"entries 1 to {first.number - 1} are missing, and no entry says that they were dropped"


def _hold_to(found: Verified, chain: _Chain, head: Head) -> Verified:
    if found.problem is not None or head.number < max(1, found.first):
        return found
    if head.number > found.head.number:
        number = found.head.number + 1
        return _with_problem(found, f"entries {number} to {head.number} are missing", broken=number)
    if chain.heads.get(head.number) != head.sha256:
        return _with_problem(found, f"entry {head.number} is another one", broken=head.number)
    return found


def _with_problem(found: Verified, problem: str, *, broken: int) -> Verified:
    return replace(found, problem=problem, broken=broken)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else -1
