"""Files beside the database. A file is written before the row that names it, and removed after it.

So a crash leaves at most a file without a row, which `sweep` removes when the store is opened:

    data_dir/sessions/<session>/readings/<reading>.txt          the text, UTF-8
    data_dir/sessions/<session>/versions/<number>.safetensors   the adapter's tensors

Published copies lie beside them: see `publication.py`.
"""

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import final

from fluvial.errors import InputError, NotFoundError, StorageError
from fluvial.store.fault import translate_os

_NAME = re.compile(r"(sess|read|msg)_[0-9a-f]{24}", re.ASCII)
_OURS = re.compile(r"read_[0-9a-f]{24}\.txt|[0-9]+\.safetensors|\..*\.tmp", re.ASCII)
_log = logging.getLogger(__name__)


def make_id(prefix: str) -> str:
    """Make a new id, such as `sess_` and 24 random hexadecimal digits."""
    return f"{prefix}_{secrets.token_hex(12)}"


def is_id(text: str, *, prefix: str) -> bool:
    """Tell whether `text` could be an id that `make_id` made."""
    return _NAME.fullmatch(text) is not None and text.startswith(f"{prefix}_")


def check_text(text: str, *, param: str) -> bytes:
    """Return `text` as UTF-8. Raises InputError where it holds half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{param} is not valid Unicode: a lone surrogate at character {error.start}",
            param=param,
        ) from None


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path`, making missing folders. Once it returns, the file is safe on disk.

    A reader, also one after a crash, finds the old file or the whole new one.
    Raises StorageError when the disk refuses; `path` is then as it was.
    """
    write_soon(path, data)
    with translate_os(f"writing {path.name}"):
        sync_folder(path.parent)


def write_soon(path: Path, data: bytes) -> None:
    """Write as `write_atomically` does, but a power cut may bring the old file back, whole."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with translate_os(f"writing {path.name}"):
        _make_folder(path.parent)
        try:
            _write_synced(temporary, data)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def remove_file(path: Path) -> None:
    """Remove the file at `path`, if it is there, for good. Raises StorageError."""
    with translate_os(f"removing {path.name}"):
        if path.exists():
            path.unlink()
            sync_folder(path.parent)


def discard_file(path: Path) -> None:
    """Remove a file that no row names any more; where the disk refuses, the next sweep will."""
    try:
        remove_file(path)
    except StorageError as error:
        _log.warning("left behind until the next start: %s", error)


@final
class SessionFolder:
    """The files of one session, below `root`. Raises NotFoundError for an id that is none."""

    def __init__(self, root: Path, session: str) -> None:
        if not is_id(session, prefix="sess"):
            raise NotFoundError(f"no session {session!r}")
        self.path = root / session

    def reading_path(self, reading: str) -> Path:
        """Return where the text of the reading with this id lives."""
        if not is_id(reading, prefix="read"):
            raise NotFoundError(f"no reading {reading!r}")
        return self.path / "readings" / f"{reading}.txt"

    def version_path(self, number: int) -> Path:
        """Return where the tensors of this version live."""
        return self.path / "versions" / f"{number}.safetensors"

    def remove(self) -> None:
        """Remove every file of the session; what can't be removed now is left to the next sweep."""
        shutil.rmtree(self.path, ignore_errors=True)
        if os.path.lexists(self.path):
            _log.warning("left behind until the next start: %s", self.path)


def sweep(root: Path, *, keep: Collection[Path], sessions: Collection[str]) -> None:
    """Remove folders that are of none of `sessions`, and in the others all but the `keep` files.

    Touches only what bears a name that this module gave. Never raises for what it can't remove.
    """
    for folder in root.glob("sess_*"):
        if not is_id(folder.name, prefix="sess"):
            continue
        if folder.name not in sessions:
            SessionFolder(root, folder.name).remove()
            continue
        for file in [*folder.glob("readings/*"), *folder.glob("versions/*")]:
            if file not in keep and _OURS.fullmatch(file.name):
                discard_file(file)


def _make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents, private, and safe on the disk."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def _write_synced(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the disk keep the names in `folder`. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
