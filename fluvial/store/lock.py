"""The lock that keeps a second process from serving the same data folder."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import final

from fluvial.errors import ConflictError
from fluvial.store.fault import translate_os


@final
class FolderLock:
    """An advisory lock on `folder/lock`, held until `release` or the end of the process.

    The file names the process that holds it. Raises ConflictError when another one does.
    """

    def __init__(self, folder: Path) -> None:
        with translate_os(f"locking {folder}"):
            self._file: int | None = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._file, 20, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise ConflictError(
                f"the data folder {folder} is in use by process {holder}; "
                "stop that one, or choose another folder with --data-dir",
                code="data_dir_in_use",
            ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its label is old
            os.pwrite(self._file, f"{os.getpid():<19}\n".encode(), 0)

    def release(self) -> None:
        """Let other processes in. A second call does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
