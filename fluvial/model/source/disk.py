"""Files while they arrive: a partial file with its running hash, and room on the disk."""

import errno
import hashlib
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Self

from fluvial.errors import StorageError

BLOCK_BYTES = 2**20
SPARE_BYTES = 32 * 2**20
"""Left free on the disk, so that a download never takes the last of it."""


def name_bytes(count: int) -> str:
    """Write a size for people, in decimal units: 491 MB."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def require_space(folder: Path, *, needed_bytes: int) -> None:
    """Raise StorageError, saying what is needed and what is free, unless `needed_bytes` fit."""
    free = shutil.disk_usage(folder).free
    if needed_bytes + SPARE_BYTES > free:
        raise StorageError(
            f"not enough disk space in {folder}: {name_bytes(needed_bytes)} needed, "
            f"{name_bytes(max(0, free - SPARE_BYTES))} free; make room or choose another --data-dir"
        )


@contextmanager
def guard_disk(folder: Path) -> Generator[None]:
    """Turn a disk's refusal inside the block into a StorageError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES):
            raise StorageError(f"the disk refused a write in {folder}: {error.strerror}") from error
        raise


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Partial:
    """A file that grows at its end; `length_bytes` and the sha256 always describe what was written.

    Opening one that exists keeps at most `keep_bytes` of it and hashes what is kept.
    """

    def __init__(self, path: Path, *, keep_bytes: int | None = None) -> None:
        self.path = path
        with guard_disk(path.parent):
            self._file: BinaryIO = path.open("a+b")
        self._digest = hashlib.sha256()
        self.length_bytes = 0
        self._keep(keep_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with guard_disk(self.path.parent):
            self._file.close()

    def append(self, data: bytes) -> None:
        """Write `data` at the end. Raises StorageError when the disk is full."""
        with guard_disk(self.path.parent):
            self._file.write(data)
        self._digest.update(data)
        self.length_bytes += len(data)

    def restart(self) -> None:
        """Throw away what was written."""
        self._file.truncate(0)
        self._digest = hashlib.sha256()
        self.length_bytes = 0

    def sync(self) -> None:
        """Put what was written on the disk itself."""
        with guard_disk(self.path.parent):
            self._file.flush()
            os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        """The hash of what was written so far, in hex."""
        return self._digest.hexdigest()

    def _keep(self, keep_bytes: int | None) -> None:
        if keep_bytes is not None and keep_bytes < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(keep_bytes)
        self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            self._digest.update(block)
            self.length_bytes += len(block)
