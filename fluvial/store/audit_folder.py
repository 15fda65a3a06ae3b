"""The files of the audit log, in `data_dir/audit`.

000000000001.jsonl …   the entries; a file is named by the number of its first one
head.json              the last entry: its number, its hash, and a code over both
key                    a secret of this installation: for that code, and for digests of texts
lock                   held while an entry is written
texts/SESSION/…        texts, where the setting `audit_texts` keeps any
"""

import contextlib
import fcntl
import hmac
import json
import os
import secrets
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from fluvial.errors import StorageError
from fluvial.store.audit_entry import FIRST_PREVIOUS
from fluvial.store.fault import translate_os
from fluvial.store.file import write_atomically, write_soon

SUFFIX = ".jsonl"
KEY_BYTES = 32
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last entry of a log: its number (0: there is none yet) and its hash."""

    number: int = 0
    sha256: str = FIRST_PREVIOUS


@final
class AuditFolder:
    """Where things lie, and the small files read and written. Made when missing by `make` only."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "audit"
        self.texts = self.path / "texts"

    def make(self) -> None:
        """Make the folder, its key and the head of a log without entries, as far as missing.

        Raises StorageError, also for entries without their key.
        """
        with translate_os(f"making {self.path}"):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.lock():
            if not self._key.exists():
                self._require_new()
                write_atomically(self._key, secrets.token_hex(KEY_BYTES).encode() + b"\n")
                self.write_head(Head())

    def list_segments(self) -> list[Path]:
        """List the files of entries, the oldest first."""
        return sorted(path for path in self.path.glob(f"*{SUFFIX}") if path.stem.isdecimal())

    def name_segment(self, number: int) -> Path:
        """Return the file that begins with entry `number`."""
        return self.path / f"{number:012d}{SUFFIX}"

    def read_key(self) -> bytes:
        """Return the installation's secret. Raises StorageError `audit_damaged`."""
        try:
            key = bytes.fromhex(self._key.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise _damaged(f"its key can't be read ({error})", self.path) from None
        if len(key) != KEY_BYTES:
            raise _damaged("its key is not whole", self.path)
        return key

    def read_head(self) -> Head:
        """Return what the head file says. Raises ValueError, saying why, where it can't be true."""
        try:
            with self._head.open("rb") as file:
                found: Any = json.loads(file.read(_HEAD_BYTES))
            head = Head(number=found["number"], sha256=found["sha256"])
            given = str(found["mac"])
        except FileNotFoundError:
            raise ValueError("the head file is missing") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ValueError("the head file can't be read") from None
        if not hmac.compare_digest(self._sign(head).encode(), given.encode(errors="replace")):
            raise ValueError("the head file was not written by this installation")
        return head

    def write_head(self, head: Head) -> None:
        """Say what the last entry is; under the lock. Raises StorageError.

        A power cut may bring the head before back, whole: that is no damage.
        """
        fields = {"number": head.number, "sha256": head.sha256, "mac": self._sign(head)}
        write_soon(self._head, json.dumps(fields).encode() + b"\n")

    @contextlib.contextmanager
    def lock(self, *, shared: bool = False) -> Generator[None]:
        """Keep other processes and threads from writing; `shared` lets others read beside."""
        flags = os.O_RDONLY if shared else os.O_RDWR | os.O_CREAT
        with translate_os(f"locking {self.path}"):
            file = os.open(self.path / "lock", flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(file)

    @property
    def _key(self) -> Path:
        return self.path / "key"

    @property
    def _head(self) -> Path:
        return self.path / "head.json"

    def _sign(self, head: Head) -> str:
        return hmac.digest(self.read_key(), f"{head.number} {head.sha256}".encode(), "sha256").hex()

    def _require_new(self) -> None:
        if self.list_segments():
            raise _damaged("its key is missing", self.path)


def _damaged(what: str, folder: Path) -> StorageError:
    return StorageError(
        f"the audit log is damaged: {what}. `fluvial audit verify` says more; to begin a new one, "
        f"move {folder} away and keep it",
        code="audit_damaged",
    )
