"""A block of disk kept back, so that a full disk can still be opened and cleaned up.

Deleting from a database writes first. Without this, a full disk could only be freed from outside.
"""

import contextlib
import logging
import shutil
from pathlib import Path
from typing import final

RESERVE_BYTES = 2**20
_log = logging.getLogger(__name__)


@final
class Reserve:
    """The file at `path`: RESERVE_BYTES of zeros while the disk has room for more than that."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Take the reserve from the disk, if it has room for twice as much. Never raises."""
        with contextlib.suppress(OSError):
            if self._missing() and self._free_bytes() >= 2 * RESERVE_BYTES:
                self._path.write_bytes(bytes(RESERVE_BYTES))

    def release_if_needed(self) -> None:
        """Give the reserve back to the disk, if less than its size is free. Never raises."""
        with contextlib.suppress(OSError):
            if not self._missing() and self._free_bytes() < RESERVE_BYTES:
                self._path.write_bytes(b"")
                _log.warning("the disk of %s is full; using the reserve", self._path.parent)

    def _missing(self) -> bool:
        return not self._path.exists() or self._path.stat().st_size < RESERVE_BYTES

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._path.parent).free
