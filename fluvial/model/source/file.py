"""`file:`, a GGUF file or a folder of safetensors on this machine: copied, or hard-linked."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from fluvial.errors import InputError, SourceError, StorageError
from fluvial.model.source.base import MODEL_FILE, Delivery, Plan, Progress
from fluvial.model.source.disk import BLOCK_BYTES, Partial, name_bytes

_FOLDER_FILES = re.compile(r"[A-Za-z0-9][\w.-]*\.(json|safetensors|jinja|txt|model)", re.A)


@dataclass(kw_only=True)
class FileSource:
    """A model on this machine. `link` shares the bytes on disk instead of copying them."""

    spec: str
    path: Path
    link: bool = False

    @classmethod
    def parse(cls, rest: str, *, link: bool = False) -> "FileSource":
        """Read what follows `file:`, a path or the rest of a file: URL."""
        if not rest or "\0" in rest:
            raise InputError("file: needs a path, as in file:models/my.gguf")
        if rest.startswith("//"):
            parts = urlsplit(f"file:{rest}")
            if parts.netloc not in ("", "localhost"):
                raise InputError(f"file:{rest} names another machine; write file:/PATH")
            rest = url2pathname(parts.path)
        path = Path(rest).expanduser().absolute()
        return cls(spec=f"file:{path}", path=path, link=link)

    def contact(self) -> Plan:
        """Look at the files. Raises SourceError when they are not a model."""
        try:
            size = sum(file.stat().st_size for file in self._list())
        except OSError as error:
            raise SourceError(f"{self.path}: {error.strerror}") from None
        return Plan(content_bytes=0 if self.link else size)

    def deliver(self, work: Path, *, progress: Progress) -> Delivery:
        """Copy or link the files, saying which of the two was done."""
        folder = work / "content"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        files = self._list()
        progress.start(self.path.name, total_bytes=sum(file.stat().st_size for file in files))
        single = not self.path.is_dir()
        bring = _link if self.link else _copy
        digests = [
            bring(file, folder / (MODEL_FILE if single else file.name), progress.advance)
            for file in files
        ]
        _note(self.path, self.link, progress)
        return Delivery(folder=folder, sha256=digests[0] if single else None)

    def _list(self) -> list[Path]:
        if self.path.is_file():
            return [self.path]
        if not self.path.is_dir():
            raise SourceError(f"there is no file or folder {self.path}")
        files = [
            file
            for file in sorted(self.path.iterdir())
            if _FOLDER_FILES.fullmatch(file.name) and file.is_file()
        ]
        names = {file.name for file in files}
        if "config.json" not in names or not any(n.endswith(".safetensors") for n in names):
            raise SourceError(
                f"{self.path} holds no safetensors model (config.json, *.safetensors)"
            )
        return files


def _copy(source: Path, target: Path, advance: Callable[[int], None]) -> str:
    with _open(source) as file, Partial(target) as copy:
        while block := file.read(BLOCK_BYTES):
            copy.append(block)
            advance(len(block))
        copy.sync()
        return copy.sha256


def _link(source: Path, target: Path, advance: Callable[[int], None]) -> str:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise StorageError(
                f"{source} is on another file system, so it can't be hard-linked; leave out --link"
            ) from None
        raise StorageError(f"{source} can't be hard-linked ({error.strerror})") from None
    with _open(source) as file:
        advance(source.stat().st_size)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(source: Path) -> BufferedReader:
    try:
        return source.open("rb")
    except OSError as error:
        raise SourceError(f"{source}: {error.strerror}") from None


def _note(path: Path, link: bool, progress: Progress) -> None:
    size = name_bytes(sum(f.stat().st_size for f in ([path] if path.is_file() else path.iterdir())))
    if link:
        progress.note(
            f"hard-linked {path} ({size}, no extra space): don't change that file in place"
        )
    else:
        progress.note(f"copied {path} ({size})")
