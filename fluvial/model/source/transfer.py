"""Download over HTTP: resumed by range, hashed while it streams, bounded by the promised size."""

import re
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from fluvial.errors import SourceError
from fluvial.model.source.base import Progress
from fluvial.model.source.disk import Partial

MAX_FILE_BYTES = 2**40
MAX_IDLE_ATTEMPTS = 4
FRUITFUL_BYTES = 2**20
"""A connection that brought this much before it broke doesn't count as a failed attempt."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file to download. `size_bytes` and `sha256` are checked when the source told them."""

    url: str
    size_bytes: int | None = None
    sha256: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


class _Interrupted(Exception):
    """The connection broke; what came so far is good."""


def redact(url: str) -> str:
    """Return `url` without user, password, query and fragment, fit for a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def download(
    client: httpx2.Client, item: Item, *, to: Path, progress: Progress, pause_s: float = 1.0
) -> str:
    """Bring `item` into the file `to`, going on from what is there; return its sha256.

    The file is complete and checked on return, and is left for a later call when a SourceError says
    that the connection broke. A file that turns out wrong is deleted: once by starting over, when
    its first part was kept from an earlier call, else with a SourceError.
    """
    with Partial(to, keep_bytes=item.size_bytes) as partial:
        kept = partial.length_bytes
        progress.advance(kept)
        _fill(client, item, partial, progress, pause_s)
        if kept and item.sha256 not in (None, partial.sha256):
            progress.note("what was kept of an earlier download does not fit; starting over")
            _restart(partial, progress)
            _fill(client, item, partial, progress, pause_s)
        partial.sync()
    _check(item, partial)
    return partial.sha256


def _check(item: Item, partial: Partial) -> None:
    if item.sha256 not in (None, partial.sha256):
        partial.path.unlink(missing_ok=True)
        raise SourceError(
            f"{redact(item.url)} delivered a file with sha256 {partial.sha256}, "
            f"but {item.sha256} was promised"
        )


def _fill(
    client: httpx2.Client, item: Item, partial: Partial, progress: Progress, pause_s: float
) -> None:
    attempts = 0
    while True:
        before = partial.length_bytes
        try:
            return _stream(client, item, partial, progress)
        except (_Interrupted, httpx2.TransportError) as error:
            fruitful = partial.length_bytes - before >= FRUITFUL_BYTES
            attempts = 1 if fruitful else attempts + 1
            if attempts >= MAX_IDLE_ATTEMPTS:
                raise SourceError(_describe_break(item, partial, error)) from error
        time.sleep(pause_s * attempts)


def _describe_break(item: Item, partial: Partial, error: Exception) -> str:
    of = "" if item.size_bytes is None else f" of {item.size_bytes}"
    why = str(error) or type(error).__name__
    return (
        f"the download of {redact(item.url)} broke off after {partial.length_bytes}{of} bytes "
        f"({why}); run the same command to go on from there"
    )


def _stream(client: httpx2.Client, item: Item, partial: Partial, progress: Progress) -> None:
    if item.size_bytes is not None and partial.length_bytes == item.size_bytes:
        return
    with _request(client, item, start=partial.length_bytes) as response:
        if response.status_code == 416 and partial.length_bytes:
            _restart(partial, progress)
            raise _Interrupted("the server refused to go on from there")
        total = _accept(response, item, partial, progress)
        # Blocks as they come: with a set size, what waits for the rest is lost when it breaks.
        for block in response.iter_raw():
            partial.append(block)
            progress.advance(len(block))
            if partial.length_bytes > total:
                partial.restart()
                raise SourceError(f"{redact(item.url)} sent more than the {total} bytes promised")
        if item.size_bytes is not None and partial.length_bytes < item.size_bytes:
            raise _Interrupted("the connection ended early")


@contextmanager
def _request(client: httpx2.Client, item: Item, *, start: int) -> Generator[httpx2.Response]:
    headers = {**item.headers, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    with client.stream("GET", item.url, headers=headers, follow_redirects=True) as response:
        yield response


def _accept(response: httpx2.Response, item: Item, partial: Partial, progress: Progress) -> int:
    """Check the head, put `partial` where the body begins, return the most bytes allowed."""
    where = redact(item.url)
    if response.status_code >= 500 or response.status_code in (408, 429):
        raise _Interrupted(f"HTTP {response.status_code}")
    if response.status_code not in (200, 206):
        raise SourceError(f"{where} answered HTTP {response.status_code}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise SourceError(f"{where} sent a compressed answer, which was not asked for")
    start, total = _extent(response)
    if start != partial.length_bytes:
        if start != 0:
            raise SourceError(f"{where} went on from byte {start}, not {partial.length_bytes}")
        _restart(partial, progress)
    if item.size_bytes is not None and total not in (None, item.size_bytes):
        raise SourceError(f"{where} is {total} bytes long, but {item.size_bytes} were promised")
    return item.size_bytes or total or MAX_FILE_BYTES


def _extent(response: httpx2.Response) -> tuple[int, int | None]:
    """Return where the body starts in the file, and the file's size where it is told."""
    if response.status_code == 206:
        found = re.fullmatch(
            r"bytes (\d{1,15})-\d{1,15}/(\d{1,15}|\*)", response.headers.get("Content-Range", "")
        )
        if found is None:
            raise SourceError(f"{redact(str(response.url))} sent a part without saying which")
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,15}", length) else None


def _restart(partial: Partial, progress: Progress) -> None:
    progress.advance(-partial.length_bytes)
    partial.restart()
