"""An opened package: its files can be listed and read. Nothing is installed, no code of it runs."""

import csv
import tarfile
from pathlib import Path
from typing import Protocol

from fluvial.errors import SourceError
from fluvial.model.source.wheel import open_member

MAX_MEMBER_BYTES = 2**26


class Package(Protocol):
    """The plain files of a package, by their paths in it."""

    def list_paths(self) -> list[str]:
        """Return all paths, sorted."""
        ...

    def read(self, path: str) -> bytes:
        """Return one file. Raises SourceError when it is missing or over 64 MiB."""
        ...


class TarPackage:
    """The content of a Debian package, as `dpkg-deb --fsys-tarfile` writes it."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file = path.open("rb")
        try:
            self._tar = tarfile.TarFile(fileobj=self._file)
            members = self._tar.getmembers()
        except (tarfile.TarError, OSError) as error:
            self._file.close()
            raise SourceError(f"{path.name} is no readable archive: {error}") from None
        self._members = {each.name.removeprefix("./"): each for each in members if each.isreg()}

    def list_paths(self) -> list[str]:
        return sorted(self._members)

    def read(self, path: str) -> bytes:
        member = self._members.get(path)
        if member is None:
            raise SourceError(f"{self._name} holds no {path}")
        _check_size(path, member.size)
        try:
            file = self._tar.extractfile(member)
            return b"" if file is None else file.read()
        except (tarfile.TarError, OSError) as error:
            raise SourceError(f"{path} in {self._name} can't be read: {error}") from None

    def close(self) -> None:
        self._tar.close()
        self._file.close()


class WheelPackage:
    """A wheel, read in place. Its own list of files (RECORD) says what there is."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list_paths(self) -> list[str]:
        name, version = self._path.name.split("-")[:2]
        record = self.read(f"{name}-{version}.dist-info/RECORD").decode("utf-8", "replace")
        return sorted(row[0] for row in csv.reader(record.splitlines()) if row)

    def read(self, path: str) -> bytes:
        with open_member(self._path, path) as (archive, info):
            _check_size(path, info.file_size)
            return archive.read(info)

    def close(self) -> None:
        """Do nothing: every `read` opens and closes the file."""


def _check_size(path: str, size_bytes: int) -> None:
    if size_bytes > MAX_MEMBER_BYTES:
        raise SourceError(f"{path} is {size_bytes} bytes long; at most {MAX_MEMBER_BYTES} are read")
