"""Caches of answered sequences, kept so that the next turn doesn't compute its beginning again.

Rules of reuse, each of which guards correctness or privacy:

- A cache is reused only within its lane: what one session or client wrote never speeds up, and so
  never shows through timing in, another's answer.
- A cache is reused only under the adapter key that computed all of it. Where a new version took
  over in the middle of an answer, the keys and values before that point are still the old
  version's: such a cache has no single key and isn't kept.
- Under another key of the same lane only the memory is used again, from its first token on.
- The last two tokens of a prompt are always computed: the last one's logits are what the answer
  begins from, and a token alone is not computed as one among several: attention sums in another
  order (1e-5), which rounding to eight bits then magnifies to logits that differ by up to 1. Steps
  of two and more agree to the last bit, so that a seed holds with and without a cached beginning.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluvial.engine.decoder import Cache, Decoder

_MIN_CAPACITY_TOKENS = 512
_COMPUTED_TOKENS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Slot:
    """A cache with room for `capacity_tokens`, its lane, and the adapter key that filled it."""

    lane: str
    key: str | None
    cache: "Cache"
    capacity_tokens: int


class PrefixStore:
    """The kept caches. All of them and the one in use hold at most `budget_tokens` of capacity.

    Only the engine's thread takes and gives; any thread may ask and forget. A slot that was taken
    is gone from here until it is given back.
    """

    def __init__(self, decoder: "Decoder", *, budget_tokens: int) -> None:
        """Keep caches of `decoder` in `budget_tokens`; one in use may exceed it alone."""
        self._decoder = decoder
        self._budget_tokens = budget_tokens
        self._slots: list[Slot] = []
        self._lock = threading.Lock()

    @property
    def kept_tokens(self) -> int:
        """Capacity of all caches kept now, in tokens."""
        return sum(slot.capacity_tokens for slot in self._slots)

    def take(
        self, prompt: Sequence[int], *, lane: str, key: str | None, needed_tokens: int
    ) -> Slot:
        """Return a slot whose cache holds the longest known beginning of `prompt`, maybe none.

        The cache holds fewer tokens than `prompt` has, and has room for `needed_tokens` in all.
        """
        with self._lock:
            found, kept_tokens = self._find(prompt, lane=lane, key=key, needed_tokens=needed_tokens)
        if found is None:
            return self._create(lane=lane, key=key, needed_tokens=needed_tokens)
        self._decoder.truncate(found.cache, kept_tokens)
        return replace(found, key=key)

    def give(self, slot: Slot) -> None:
        """Keep `slot`, as the last to be thrown out. All of it was computed under its key."""
        with self._lock:
            self._slots.append(slot)
            self._make_room(0)

    def forget(self, lane: str) -> None:
        """Throw out the caches of `lane`."""
        with self._lock:
            self._slots = [slot for slot in self._slots if slot.lane != lane]

    def _find(
        self, prompt: Sequence[int], *, lane: str, key: str | None, needed_tokens: int
    ) -> tuple[Slot | None, int]:
        """Remove and return the best slot to go on from, and how many of its tokens to keep."""
        best, shared, outdated = None, 0, None
        for slot in self._slots:
            if slot.lane != lane or slot.capacity_tokens < needed_tokens:
                continue
            if slot.key != key:
                outdated = slot
            elif (common := _count_common(slot.cache.tokens, prompt)) > shared:
                best, shared = slot, common
        found = best or outdated
        if found is not None:
            self._slots.remove(found)
        return found, max(0, min(shared, len(prompt) - _COMPUTED_TOKENS))

    def _create(self, *, lane: str, key: str | None, needed_tokens: int) -> Slot:
        """Make an empty slot, with room for the turns to come where the context allows it."""
        roomy = max(2 * needed_tokens, _MIN_CAPACITY_TOKENS)
        capacity = min(roomy, self._decoder.context_tokens)
        with self._lock:
            self._make_room(capacity)
        cache = self._decoder.new_cache(capacity)
        return Slot(lane=lane, key=key, cache=cache, capacity_tokens=capacity)

    def _make_room(self, tokens: int) -> None:
        while self._slots and self.kept_tokens + tokens > self._budget_tokens:
            del self._slots[0]


def _count_common(left: Sequence[int], right: Sequence[int]) -> int:
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
