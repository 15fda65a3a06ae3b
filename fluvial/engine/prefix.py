"""Caches of answered sequences, kept so that the next turn doesn't compute its beginning again.

Rules of reuse, each of which guards correctness or privacy:

- A cache is reused only for its owner: what one session or client wrote never speeds up, and so
  never shows through timing in, another's answer.
- A cache is reused only under the adapter key that computed all of it.
- It is shared, not handed over: pages are counted by reference, and only whole ones are common.
- What is thrown out goes to disk where there is one (see spill.py), and comes back from there.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.protocol import Decoder
from fluvial.engine.spill import Spill
from fluvial.engine.spill_file import digest
from fluvial.errors import FluvialError

log = logging.getLogger(__name__)

CLOSING_S = 10.0
"""How long an end may be held up by what is still to be written."""

Tokens = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Origin:
    """Whose a cache is, and the adapter key that computed it. `lane` is a digest (spill.py)."""

    lane: str
    owner: str
    key: str | None


@dataclass(kw_only=True, eq=False)
class _Entry:
    origin: Origin
    cache: Any
    tokens: Tokens
    used_s: float
    number: int = field(default=0)


class PrefixStore:
    """The kept caches, the least lately used first to go. Only the decoder's thread comes here."""

    def __init__(
        self, decoder: Decoder, *, spill: Spill | None = None, idle_s: float | None = None
    ) -> None:
        """Keep caches of `decoder`; with `spill`, those unused for `idle_s` go to disk."""
        self._decoder = decoder
        self._spill = spill
        self._idle_s = idle_s
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._groups: dict[tuple[str, str | None], dict[int, _Entry]] = {}
        self._number = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def caches(self) -> list[Any]:
        """The caches kept now."""
        return [entry.cache for entry in self._entries.values()]

    def fork(
        self, tokens: Sequence[int], *, most_tokens: int, origin: Origin, now_s: float
    ) -> Any | None:
        """Return a cache of the longest known beginning of `tokens`; None where there is none.

        It holds at most `most_tokens`.
        """
        tokens = tokens[:most_tokens]
        wanted = np.asarray(tokens, np.int32)
        best, length = self._find(wanted, origin=origin)
        if self._spill is not None and self._fetch(tokens, origin=origin, over=length, now_s=now_s):
            best, length = self._find(wanted, origin=origin)
        if best is None or length == 0:
            return None
        best.used_s = now_s
        self._entries.move_to_end(best.number)
        # A decoder may copy a partly filled page here, and needs a free one then.
        while length % self._decoder.page_tokens and not self._decoder.free_pages:
            if not self.drop_oldest(spare=best.cache):
                return None
        return self._decoder.fork(best.cache, length)

    def keep(self, cache: Any, *, origin: Origin, now_s: float) -> None:
        """Keep `cache`, from now on this store's own, as the last to be thrown out."""
        tokens = np.asarray(cache.tokens, np.int32)
        group = self._groups.get((origin.owner, origin.key), {})
        same_lane = [entry for entry in group.values() if entry.origin.lane == origin.lane]
        for entry in same_lane:
            if self._holds(entry.cache, entry.tokens, tokens):
                entry.used_s = now_s
                self._entries.move_to_end(entry.number)
                self._decoder.release(cache)
                return
            if self._holds(cache, tokens, entry.tokens):
                self._remove(entry)
        self._add(_Entry(origin=origin, cache=cache, tokens=tokens, used_s=now_s))

    def drop_oldest(self, *, spare: Any = None) -> bool:
        """Throw out the least lately used cache but `spare`; False when there was none."""
        for entry in self._entries.values():
            if entry.cache is not spare:
                self._throw_out(entry)
                return True
        return False

    def tend(self, now_s: float) -> None:
        """Send what has been idle too long to disk."""
        while self._entries and self.next_idle_s is not None and self.next_idle_s <= now_s:
            self.drop_oldest()

    @property
    def next_idle_s(self) -> float | None:
        """When `tend` will next have something to do; None: never as things are."""
        if self._spill is None or self._idle_s is None or not self._entries:
            return None
        return next(iter(self._entries.values())).used_s + self._idle_s

    def forget(self, lane: str) -> None:
        """Throw out the caches of `lane`, from disk too."""
        name = digest(lane)
        for entry in [each for each in self._entries.values() if each.origin.lane == name]:
            self._remove(entry)
        if self._spill is not None:
            self._spill.forget(name)

    def forget_adapter(self, key: str, *, owner: str) -> None:
        """Throw out the caches that the adapter with this key computed for `owner`, everywhere."""
        for entry in list(self._groups.get((owner, key), {}).values()):
            self._remove(entry)
        if self._spill is not None:
            self._spill.forget_adapter(key, owner=owner)

    def close(self) -> None:
        """Send to disk what can be written in `CLOSING_S`, the last used first; release all."""
        end_s = time.monotonic() + CLOSING_S
        for entry in reversed(list(self._entries.values())):
            if self._spill is not None and time.monotonic() < end_s:
                self._throw_out(entry)
                self._spill.flush()
            else:
                self._remove(entry)

    def _find(self, wanted: Tokens, *, origin: Origin) -> tuple[_Entry | None, int]:
        best, most = None, 0
        for entry in self._groups.get((origin.owner, origin.key), {}).values():
            common = _count_common(entry.tokens, wanted)
            if common > most:
                common = self._decoder.restorable(entry.cache, common)
            if common > most:
                best, most = entry, common
        return best, most

    def _fetch(self, tokens: Sequence[int], *, origin: Origin, over: int, now_s: float) -> bool:
        """Bring back from disk what begins `tokens` for more than `over` of them.

        Tells whether anything has changed here: others may have made room, even in vain.
        """
        assert self._spill is not None  # noqa: S101 - the caller has looked
        found = self._spill.find(tokens, owner=origin.owner, key=origin.key)
        if found is None or found.common_tokens <= over:
            return False
        loaded = self._spill.load(found)
        if loaded is None:
            return False
        kept_tokens, tensors = loaded
        try:
            cache = self._decoder.restore(kept_tokens, tensors)
            while cache is None and self.drop_oldest():
                cache = self._decoder.restore(kept_tokens, tensors)
        except FluvialError:
            self._spill.discard(found)
            return True
        if cache is None:
            return True
        origin = Origin(lane=found.kept.lane, owner=origin.owner, key=origin.key)
        held = np.asarray(kept_tokens, np.int32)
        self._add(_Entry(origin=origin, cache=cache, tokens=held, used_s=now_s))
        return True

    def _holds(self, cache: Any, tokens: Tokens, other: Tokens) -> bool:
        """Tell whether all of `other` can be forked from `cache`, which holds `tokens`."""
        length = len(other)
        if len(tokens) < length or not np.array_equal(tokens[:length], other):
            return False
        return self._decoder.restorable(cache, length) == length

    def _add(self, entry: _Entry) -> None:
        self._number += 1
        entry.number = self._number
        self._entries[entry.number] = entry
        group = (entry.origin.owner, entry.origin.key)
        self._groups.setdefault(group, {})[entry.number] = entry

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.number]
        group = (entry.origin.owner, entry.origin.key)
        del self._groups[group][entry.number]
        if not self._groups[group]:
            del self._groups[group]
        self._decoder.release(entry.cache)

    def _throw_out(self, entry: _Entry) -> None:
        """Send `entry` to disk, where there is one, and remove it. What can't be sent is lost."""
        whole = self._decoder.restorable(entry.cache, len(entry.tokens)) == len(entry.tokens)
        if self._spill is not None and whole:
            origin = entry.origin
            try:
                self._spill.put(
                    entry.tokens,
                    export=lambda: self._decoder.export(entry.cache),
                    lane=origin.lane,
                    owner=origin.owner,
                    key=origin.key,
                )
            except Exception:
                log.exception("a conversation's cache could not be kept")
        self._remove(entry)


def _count_common(left: Tokens, right: Tokens) -> int:
    size = min(len(left), len(right))
    unlike = np.flatnonzero(left[:size] != right[:size])
    return int(unlike[0]) if len(unlike) else size
