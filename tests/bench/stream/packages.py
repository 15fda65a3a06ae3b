"""Packages made for tests: a wheel, a Debian package's archive, and programs that deliver it."""

import io
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path


def make_wheel(folder: Path, files: Mapping[str, bytes], *, name: str = "some-1.0") -> Path:
    path = folder / f"{name}-py3-none-any.whl"
    record = "".join(f"{member},sha256=x,{len(data)}\n" for member, data in files.items())
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**files, f"{name}.dist-info/RECORD": record.encode()}.items():
            archive.writestr(member, data)
    return path


def make_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("./link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_programs(folder: Path, *, tar: Path, refused: str = "never") -> None:
    """Put an apt-get that knows one package, and a dpkg-deb that unpacks it, into `folder`.

    It refuses what matches the shell pattern `refused`, and writes what it was asked to `asked`.
    """
    scripts = {
        "apt-get": f'echo "$3" >> {folder}/asked\ncase "$3" in {refused}) '
        'echo "E: Unable to locate package $3" >&2; exit 100;; esac\ntouch some_1_all.deb\n',
        "dpkg-deb": f'test -f "$2" && cat {tar}\n',
    }
    for name, body in scripts.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{body}")
        script.chmod(0o755)


def list_asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().split()


def put_first_on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
