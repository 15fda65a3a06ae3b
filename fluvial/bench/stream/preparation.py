"""Fetch streams, hold them to their sha256, and put them into a folder."""

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluvial.bench.stream.recipe import STREAMS, Stream
from fluvial.errors import InputError, SourceError, StorageError
from fluvial.model.source.base import Progress, Silent


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A stream in its file. `fetched` is False when the right file was there already."""

    stream: Stream
    path: Path
    num_bytes: int
    fetched: bool

    def to_json(self) -> dict[str, Any]:
        """Return what a table shows of it."""
        return {
            "name": self.stream.name,
            "kind": self.stream.kind,
            "path": str(self.path),
            "source": self.stream.source.label,
            "bytes": self.num_bytes,
            "tokens": self.stream.tokens,
            "sha256": self.stream.sha256,
            "held_out": self.stream.held_out,
            "fetched": self.fetched,
        }


def prepare(
    folder: Path, *, names: Sequence[str] = (), progress: Progress | None = None
) -> list[Prepared]:
    """Put the streams called `names` (default: all) into `folder`, as NAME.txt.

    A file that is there and right is kept. Raises InputError for an unknown name, SourceError when
    a package can't be had or gives other bytes, UnsupportedError where Debian's tools are missing,
    StorageError when the folder can't be written. What was made before an error stays.
    """
    unknown = [name for name in names if name not in STREAMS]
    if unknown:
        raise InputError(f"no stream is called {unknown[0]!r}; there are: {', '.join(STREAMS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [
            _prepare_one(STREAMS[name], folder, progress or Silent())
            for name in dict.fromkeys(names or STREAMS)
        ]
    except OSError as error:
        raise StorageError(f"{folder} can't be written: {error.strerror}") from None


def cut(pieces: Iterable[str], *, limit_bytes: int) -> bytes:
    """Join pieces and cut at the end of the last line that fits; take no more pieces than needed.

    Raises SourceError when there is nothing up to there.
    """
    text = bytearray()
    for piece in pieces:
        text += piece.encode("utf-8")
        if len(text) > limit_bytes:
            del text[text.rfind(b"\n", 0, limit_bytes) + 1 :]
            break
    if not text:
        raise SourceError("the package holds none of the expected text")
    return bytes(text)


def _prepare_one(stream: Stream, folder: Path, progress: Progress) -> Prepared:
    path = folder / f"{stream.name}.txt"
    if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == stream.sha256:
        size = path.stat().st_size
        return Prepared(stream=stream, path=path, num_bytes=size, fetched=False)
    text = make(stream, progress=progress)
    fresh = path.with_suffix(".part")
    fresh.write_bytes(text)
    fresh.replace(path)
    return Prepared(stream=stream, path=path, num_bytes=len(text), fetched=True)


def make(stream: Stream, *, progress: Progress) -> bytes:
    """Fetch a stream's package and return the text. Raises SourceError for any other bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="fluvial-stream-") as work,
        closing(stream.source.open(Path(work), progress=progress)) as package,
    ):
        text = cut(stream.compose(package), limit_bytes=stream.limit_bytes)
    found = hashlib.sha256(text).hexdigest()
    if found != stream.sha256:
        raise SourceError(
            f"the stream {stream.name} came out with sha256 {found}, not {stream.sha256}: it was "
            f"made of {stream.source.label}, and what was fetched differs"
        )
    return text
