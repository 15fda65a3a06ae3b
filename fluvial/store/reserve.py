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
    """The file at `path`: RESERVE_BYTES of zeros, or what the disk had left for it.

    It is lent out only while the store is opened, or while something is deleted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Take from the disk what is missing, as far as there is room. Never raises."""
        with contextlib.suppress(OSError):
            missing_bytes = RESERVE_BYTES - self._size_bytes()
            with self._path.open("ab", buffering=0) as file:
                file.write(bytes(max(0, min(missing_bytes, self._free_bytes()))))

    def release_if_needed(self) -> bool:
        """Give the reserve to the disk if that has less than RESERVE_BYTES free; tells whether.

        Never raises. Whoever got it calls `fill` afterwards.
        """
        with contextlib.suppress(OSError):
            if self._free_bytes() < RESERVE_BYTES:
                self._path.write_bytes(b"")
                _log.warning("the disk of %s is full; using the reserve", self._path.parent)
                return True
        return False

    def _size_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _free_bytes(self) -> int:
        return shutil.disk_usage(self._path.parent).free
