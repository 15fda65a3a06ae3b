"""Kept prefixes on disk, so that an idle conversation costs no memory and still goes on at once.

    folder/<digest of owner, checkpoint, adapter key and tokens>.safetensors

Each file holds what the decoder exported and the tokens it stands for; its header names the format,
the checkpoint, the engine's version and the lane (its digest). Files are private (mode 600), are
lost without harm, and are deleted when they are damaged, of another checkpoint or version, or the
least lately used over the budget. Writing happens on a thread of its own.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

Tensors = Mapping[str, NDArray[Any]]

FORMAT = "fluvial-cache-1"
LINK_TOKENS = 16
"""Tokens of each link in the chain of digests by which beginnings are compared."""
LEAST_TOKENS = 64
"""Shorter prefixes are computed again as fast as they are read."""
PENDING_BYTES = 256 * 2**20
"""What may wait for the disk; a slow one loses prefixes rather than take memory."""
SPARE_BYTES = 2**30
"""Room on the disk that caches leave to others."""

_MAX_HEADER_BYTES = 10_000_000
_LINK_CHARS = 16
_log = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class Kept:
    """A prefix on disk, or on its way there (then `tensors` are still in memory).

    `lane` is a digest. `chain` holds the digest of every whole link, one after another.
    """

    name: str
    salt: str
    lane: str
    chain: str
    size_bytes: int
    tensors: Tensors | None = None
    dropped: bool = field(default=False)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `find` found. The first `common_tokens` are the same, perhaps some more."""

    kept: Kept
    common_tokens: int


class Spill:
    """A folder of kept prefixes within `budget_bytes`. Thread-safe. Close it at the end."""

    def __init__(self, folder: Path, *, checkpoint: str, version: str, budget_bytes: int) -> None:
        """Take over `folder`: what belongs to this checkpoint and version; the rest is deleted."""
        self._folder = folder
        self._checkpoint = checkpoint
        self._version = version
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._pending: deque[Kept] = deque()
        self._writing = False
        self._closing = False
        self._changed = threading.Condition()
        self._take_over()
        self._thread = threading.Thread(target=self._work, name="cache writer", daemon=True)
        self._thread.start()

    @property
    def bytes(self) -> int:
        """What is kept now, in bytes, with what is still to be written."""
        with self._changed:
            return sum(kept.size_bytes for kept in self._kept.values())

    def put(
        self,
        tokens: NDArray[np.int32],
        *,
        export: Callable[[], Tensors],
        lane: str,
        owner: str,
        key: str | None,
    ) -> None:
        """Keep what `export` gives for `tokens`; not asked where that is known or too short.

        `lane` is a digest: it goes into the file as it is.
        """
        if len(tokens) < LEAST_TOKENS:
            return
        salt = self._salt(owner, key)
        links, name = _chain(tokens, salt)
        with self._changed:
            known = self._kept.get(name)
            if known is not None:
                self._touch(known)
                return
            if sum(each.size_bytes for each in self._pending) > PENDING_BYTES:
                return
        tensors = {f"cache.{name}": array for name, array in export().items()}
        tensors["tokens"] = tokens
        size = sum(array.nbytes for array in tensors.values())
        kept = Kept(
            name=name,
            salt=salt,
            lane=lane,
            chain=links,
            size_bytes=size,
            tensors=tensors,
        )
        with self._changed:
            self._drop_beginnings(kept)
            self._kept[name] = kept
            self._pending.append(kept)
            self._changed.notify_all()

    def find(self, tokens: Sequence[int], *, owner: str, key: str | None) -> Found | None:
        """Return the prefix that shares the longest beginning with `tokens`, in whole links."""
        salt = self._salt(owner, key)
        with self._changed:
            group = [kept for kept in self._kept.values() if kept.salt == salt]
        if not group:
            return None
        links, _ = _chain(np.asarray(tokens, np.int32), salt)
        best = max(group, key=lambda kept: _count_links(kept.chain, links))
        common = _count_links(best.chain, links) * LINK_TOKENS
        if common == 0:
            return None
        return Found(kept=best, common_tokens=common)

    def load(self, found: Found) -> tuple[list[int], Tensors] | None:
        """Read a prefix; None, and it is deleted, where it is damaged or gone."""
        kept = found.kept
        with self._changed:
            self._touch(kept)
            tensors = kept.tensors
        if tensors is None:
            tensors = _read(self._folder / f"{kept.name}.safetensors", name=kept.name)
        tokens = None if tensors is None else tensors.get("tokens")
        if tensors is None or tokens is None or _chain(tokens, kept.salt)[1] != kept.name:
            self.discard(found)
            return None
        prefix = "cache."
        arrays = {
            name.removeprefix(prefix): array
            for name, array in tensors.items()
            if name.startswith(prefix)
        }
        return tokens.tolist(), arrays

    def discard(self, found: Found) -> None:
        """Delete a prefix that turned out to be useless."""
        with self._changed:
            self._drop(found.kept)

    def forget(self, lane: str) -> None:
        """Delete every prefix of `lane`, a digest; once this returns, none is on disk."""
        with self._changed:
            for kept in [each for each in self._kept.values() if each.lane == lane]:
                self._drop(kept)
            self._changed.wait_for(lambda: not self._writing)

    def flush(self) -> None:
        """Wait until everything is written."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending and not self._writing)

    def close(self) -> None:
        """Write what waits and end the thread. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._closing)
                if not self._pending:
                    return
                kept = self._pending.popleft()
                self._writing = not kept.dropped
            if self._writing:
                self._write(kept)

    def _write(self, kept: Kept) -> None:
        try:
            size: int | None = self._save(kept)
        except (OSError, SafetensorError, ValueError) as error:
            _log.warning("a conversation's cache was not written: %s", error)
            size = None
        with self._changed:
            self._writing = False
            if size is None or kept.dropped:
                self._drop(kept)
            else:
                kept.tensors, kept.size_bytes = None, size
                self._enforce_budget()
            self._changed.notify_all()

    def _save(self, kept: Kept) -> int | None:
        assert kept.tensors is not None  # noqa: S101 - only the writer takes them away
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if shutil.disk_usage(self._folder).free < SPARE_BYTES + kept.size_bytes:
            return None
        arrays = {name: np.ascontiguousarray(array) for name, array in kept.tensors.items()}
        header = {
            "format": FORMAT,
            "checkpoint": self._checkpoint,
            "version": self._version,
            "salt": kept.salt,
            "lane": kept.lane,
            "chain": kept.chain,
            "crc32": str(_checksum(arrays)),
        }
        data = safetensors.numpy.save(arrays, metadata=header)
        path = self._folder / f"{kept.name}.safetensors"
        temporary = self._folder / f".{secrets.token_hex(8)}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return len(data)

    def _take_over(self) -> None:
        """List what is there, oldest first; delete what isn't ours to use."""
        if not self._folder.is_dir():
            return
        found: list[tuple[float, Kept]] = []
        for path in self._folder.iterdir():
            kept = self._recognise(path)
            with contextlib.suppress(OSError):
                if kept is not None:
                    found.append((path.stat().st_mtime, kept))
                elif path.suffix in (".safetensors", ".tmp"):
                    path.unlink()
        for _, kept in sorted(found, key=lambda each: each[0]):
            self._kept[kept.name] = kept
        self._enforce_budget()

    def _recognise(self, path: Path) -> Kept | None:
        header = _read_header(path) if path.suffix == ".safetensors" else None
        if header is None or (header.get("format"), header.get("version")) != (
            FORMAT,
            self._version,
        ):
            return None
        texts = [header.get(name) for name in ("salt", "lane", "chain")]
        if header.get("checkpoint") != self._checkpoint or not all(texts):
            return None
        salt, lane, chain = (str(text) for text in texts)
        return Kept(
            name=path.stem,
            salt=salt,
            lane=lane,
            chain=chain,
            size_bytes=path.stat().st_size,
        )

    def _drop_beginnings(self, longer: Kept) -> None:
        """Drop what `longer` holds too; call with the lock."""
        for kept in [each for each in self._kept.values() if each.salt == longer.salt]:
            if kept.lane == longer.lane and longer.chain.startswith(kept.chain):
                self._drop(kept)

    def _enforce_budget(self) -> None:
        total = sum(kept.size_bytes for kept in self._kept.values())
        for kept in list(self._kept.values()):
            if total <= self._budget_bytes:
                return
            total -= kept.size_bytes
            self._drop(kept)

    def _drop(self, kept: Kept) -> None:
        """Forget `kept` and its file; call with the lock."""
        kept.dropped, kept.tensors = True, kept.tensors if self._writing else None
        if self._kept.get(kept.name) is kept:
            del self._kept[kept.name]
            with contextlib.suppress(ValueError):
                self._pending.remove(kept)
        with contextlib.suppress(OSError):
            (self._folder / f"{kept.name}.safetensors").unlink(missing_ok=True)

    def _touch(self, kept: Kept) -> None:
        if kept.name in self._kept:
            self._kept.move_to_end(kept.name)
            with contextlib.suppress(OSError):
                os.utime(self._folder / f"{kept.name}.safetensors")

    def _salt(self, owner: str, key: str | None) -> str:
        return digest(json.dumps([self._checkpoint, owner, key]))


def _chain(tokens: NDArray[np.int32], salt: str) -> tuple[str, str]:
    """Return the digests of all whole links, one after another, and one of everything."""
    state = hashlib.blake2b(salt.encode(), digest_size=32)
    links: list[str] = []
    whole = len(tokens) - len(tokens) % LINK_TOKENS
    data = np.ascontiguousarray(tokens, np.int32).tobytes()
    for start in range(0, whole, LINK_TOKENS):
        state.update(data[4 * start : 4 * (start + LINK_TOKENS)])
        links.append(state.hexdigest()[:_LINK_CHARS])
    state.update(data[4 * whole :])
    return "".join(links), state.hexdigest()


def _count_links(left: str, right: str) -> int:
    """Count the links that are the same; each stands for all tokens up to its end."""

    def same(count: int) -> bool:
        at = slice(_LINK_CHARS * (count - 1), _LINK_CHARS * count)
        return left[at] == right[at]

    low, high = 0, min(len(left), len(right)) // _LINK_CHARS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if same(middle) else (low, middle - 1)
    return low


def digest(text: str) -> str:
    """Return a name for `text` that doesn't tell it."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _checksum(arrays: Tensors) -> int:
    total = 0
    for name in sorted(arrays):
        label = f"{name} {arrays[name].dtype} {arrays[name].shape}"
        total = zlib.crc32(label.encode(), total)
        total = zlib.crc32(np.ascontiguousarray(arrays[name]).tobytes(), total)
    return total


def _read(path: Path, *, name: str) -> Tensors | None:
    try:
        header = _read_header(path)
        arrays = safetensors.numpy.load(path.read_bytes())
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        _log.warning("the cache %s is damaged: %s", name[:12], error)
        return None
    if header is None or header.get("crc32") != str(_checksum(arrays)):
        _log.warning("the cache %s is damaged: its checksum differs", name[:12])
        return None
    return arrays


def _read_header(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a safetensors file; None where there is none to trust."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= _MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
    except (OSError, ValueError, RecursionError):
        return None
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else None
