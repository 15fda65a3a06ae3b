"""Kept prefixes on disk, so that an idle conversation costs no memory and still goes on at once.

    folder/<digest of owner, checkpoint, adapter key and tokens>.safetensors

Each file holds what the decoder exported and the tokens it stands for (see spill_file.py). Files
are private (mode 600), are lost without harm, and are deleted when they are damaged, of another
checkpoint or version, or the least lately used over the budget. Writing happens on a thread of its
own.
"""

import contextlib
import json
import logging
import os
import shutil
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from fluvial.engine.spill_file import (
    FORMAT,
    LINK_TOKENS,
    Tensors,
    count_links,
    digest,
    make_chain,
    read_file,
    read_header,
    write_file,
)

LEAST_TOKENS = 64
"""Shorter prefixes are computed again as fast as they are read."""
PENDING_BYTES = 256 * 2**20
"""What may wait for the disk; a slow one loses prefixes rather than take memory."""
SPARE_BYTES = 2**30
"""Room on the disk that caches leave to others."""

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
        links, name = make_chain(tokens, salt)
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
        links, _ = make_chain(np.asarray(tokens, np.int32), salt)
        best = max(group, key=lambda kept: count_links(kept.chain, links))
        common = count_links(best.chain, links) * LINK_TOKENS
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
            tensors = read_file(self._path(kept))
        tokens = None if tensors is None else tensors.get("tokens")
        if tensors is None or tokens is None or make_chain(tokens, kept.salt)[1] != kept.name:
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
        self._forget(lambda kept: kept.lane == lane)

    def forget_adapter(self, key: str, *, owner: str) -> None:
        """Delete every prefix of `owner` that the adapter with this key computed, likewise."""
        salt = self._salt(owner, key)
        self._forget(lambda kept: kept.salt == salt)

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
        header = {
            "checkpoint": self._checkpoint,
            "version": self._version,
            "salt": kept.salt,
            "lane": kept.lane,
            "chain": kept.chain,
        }
        return write_file(self._path(kept), kept.tensors, header=header)

    def _forget(self, chosen: Callable[[Kept], bool]) -> None:
        with self._changed:
            for kept in [each for each in self._kept.values() if chosen(each)]:
                self._drop(kept)
            self._changed.wait_for(lambda: not self._writing)

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
        header = read_header(path) if path.suffix == ".safetensors" else None
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
            self._path(kept).unlink(missing_ok=True)

    def _touch(self, kept: Kept) -> None:
        if kept.name in self._kept:
            self._kept.move_to_end(kept.name)
            with contextlib.suppress(OSError):
                os.utime(self._path(kept))

    def _path(self, kept: Kept) -> Path:
        return self._folder / f"{kept.name}.safetensors"

    def _salt(self, owner: str, key: str | None) -> str:
        return digest(json.dumps([self._checkpoint, owner, key]))
