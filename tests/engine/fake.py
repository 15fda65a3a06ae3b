"""A decoder without a model that betrays every mix-up of sequences, pages and adapters.

A page's content is what was written into it; logits are a pure function of all (token, adapter key)
pairs that a cache's pages hold, and of a recurrent state where there is one. So a page shared too
long, a state of another sequence, or a token under the wrong adapter changes what is drawn.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fluvial.engine.protocol import Part
from fluvial.errors import ContextLengthError, ModelError

MIX = (1 << 61) - 1


def entry(token: int, key: str | None, position: int) -> int:
    """What a token leaves in its page."""
    code = sum((n + 1) * ord(c) for n, c in enumerate(key or ""))
    return ((token + 1) * 1_000_003 + code * 7919 + position * 104_729) % MIX


def absorb(state: int, value: int) -> int:
    return (state * 31 + value + 17) % MIX


def mix(entries: Sequence[int], state: int) -> int:
    return hash((tuple(entries), state))


@dataclass(eq=False)
class FakeCache:
    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    state: int = 0
    snapshots: dict[int, int] = field(default_factory=dict)
    released: bool = False

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass
class Step:
    """A part of a step as it was asked for."""

    tokens: list[int]
    start: int
    key: str | None


class FakeDecoder:
    """`gate` is called before each step with its parts; it may hold it, or raise.

    `copies_late`: a partly filled page is shared by a fork, and copied when room is reserved.
    """

    def __init__(
        self,
        *,
        vocab_size: int = 257,
        context_tokens: int = 1024,
        page_tokens: int = 16,
        total_pages: int | None = None,
        recurrent: bool = False,
        copies_late: bool = True,
        gate: Callable[[list[Step]], None] = lambda parts: None,
        record: bool = True,
    ) -> None:
        self.vocab_size = vocab_size
        self.context_tokens = context_tokens
        self.page_tokens = page_tokens
        self.total_pages = total_pages or 8 * -(-context_tokens // page_tokens)
        self.recurrent = recurrent
        self.gate = gate
        self.record = record
        self.steps: list[list[Step]] = []
        self.caches: list[FakeCache] = []
        self.threads: set[int] = set()
        self.forgotten_adapters: list[str] = []
        self._copies_late = copies_late
        self._free = list(range(self.total_pages))
        self._counts = [0] * self.total_pages
        self._pool: list[list[int]] = [[] for _ in range(self.total_pages)]

    @property
    def free_pages(self) -> int:
        return len(self._free)

    @property
    def parts(self) -> list[Step]:
        return [part for step in self.steps for part in step]

    def new_cache(self) -> FakeCache:
        cache = FakeCache()
        if self.record:
            self.caches.append(cache)
        return cache

    def reserve(self, cache: FakeCache, tokens: int) -> bool:
        assert not cache.released
        missing = max(0, -(-tokens // self.page_tokens) - len(cache.pages))
        edge = cache.length // self.page_tokens
        shared = [n for n in range(edge, len(cache.pages)) if self._counts[cache.pages[n]] > 1]
        if missing + len(shared) > len(self._free):
            return False
        for n in shared:
            page = self._take()
            self._pool[page] = list(self._pool[cache.pages[n]])
            self._counts[cache.pages[n]] -= 1
            cache.pages[n] = page
        for _ in range(missing):
            cache.pages.append(self._take())
        return True

    def step(self, parts: Sequence[Part]) -> list[np.ndarray]:
        asked = [
            Step(list(p.tokens), p.cache.length, p.adapter.key if p.adapter else None)
            for p in parts
        ]
        assert parts
        assert len({id(part.cache) for part in parts}) == len(parts)
        for part in parts:
            assert not part.cache.released
            assert len(part.tokens) > 0
            assert list(part.wanted) == sorted(set(part.wanted))
            if part.cache.length + len(part.tokens) > len(part.cache.pages) * self.page_tokens:
                raise ContextLengthError("no room was reserved")
        if self.record:
            self.threads.add(threading.get_ident())
        try:
            self.gate(asked)
        except BaseException:
            self._break_off(parts)
            raise
        if self.record:
            self.steps.append(asked)
        return [self._append(part) for part in parts]

    def snapshot(self, cache: FakeCache) -> None:
        if self.recurrent:
            cache.snapshots[cache.length] = cache.state

    def restorable(self, cache: FakeCache, length: int) -> int:
        if not self.recurrent:
            return min(length, cache.length)
        reachable = [0, *cache.snapshots, cache.length]
        return max(each for each in reachable if each <= length)

    def fork(self, cache: FakeCache, length: int) -> FakeCache:
        assert not cache.released
        assert self.restorable(cache, length) == length
        forked = self.new_cache()
        whole, rest = divmod(length, self.page_tokens)
        if rest and self._copies_late:
            whole, rest = whole + 1, 0
        if rest and not self._free:
            raise ContextLengthError("no page is free for the copy")
        for page in cache.pages[:whole]:
            self._counts[page] += 1
            forked.pages.append(page)
        if rest:
            page = self._take()
            self._pool[page] = self._pool[cache.pages[whole]][:rest]
            forked.pages.append(page)
        forked.tokens = cache.tokens[:length]
        forked.keys = cache.keys[:length]
        self._rewind(forked, cache, length)
        return forked

    def truncate(self, cache: FakeCache, length: int) -> None:
        assert self.restorable(cache, length) == length
        self._rewind(cache, cache, length)
        del cache.tokens[length:], cache.keys[length:]

    def forget_adapter(self, key: str) -> None:
        self.forgotten_adapters.append(key)

    def release(self, cache: FakeCache) -> None:
        assert not cache.released
        cache.released = True
        for page in cache.pages:
            self._counts[page] -= 1
            if self._counts[page] == 0:
                self._pool[page] = []
                self._free.append(page)
        cache.pages = []

    def export(self, cache: FakeCache) -> dict[str, np.ndarray]:
        shots = [[length, state] for length, state in sorted(cache.snapshots.items())]
        return {
            "entries": np.array(self._entries(cache), np.int64),
            "state": np.array([cache.state], np.int64),
            "snapshots": np.array(shots, np.int64).reshape(-1, 2),
        }

    def restore(self, tokens: Sequence[int], tensors: Mapping[str, Any]) -> FakeCache | None:
        entries = tensors.get("entries")
        if entries is None or entries.shape != (len(tokens),) or entries.dtype != np.int64:
            raise ModelError("entries do not fit the tokens")
        cache = self.new_cache()
        if not self.reserve(cache, len(tokens)):
            self.release(cache)
            return None
        cache.tokens = list(tokens)
        cache.keys = [None] * len(tokens)
        cache.state = int(tensors["state"][0])
        cache.snapshots = {int(a): int(b) for a, b in tensors["snapshots"]}
        for index, value in enumerate(entries.tolist()):
            self._pool[cache.pages[index // self.page_tokens]].append(value)
        return cache

    def check(self, caches: Sequence[FakeCache]) -> None:
        """Hold the pages against the caches that are alive."""
        counts = [0] * self.total_pages
        for cache in caches:
            assert not cache.released
            for page in cache.pages:
                counts[page] += 1
        assert counts == self._counts, "a page is counted wrongly, or leaked"
        assert sorted(self._free) == [n for n, count in enumerate(counts) if count == 0]

    def logits(self, cache: FakeCache) -> np.ndarray:
        """Derive logits of all that the cache holds."""
        return draw_logits(mix(self._entries(cache), cache.state), self.vocab_size)

    def _break_off(self, parts: Sequence[Part]) -> None:
        """Leave a step half done, as a fault may: one sequence further, all states damaged."""
        self._append(parts[0])
        for part in parts:
            if self.recurrent:
                part.cache.state = absorb(part.cache.state, 12_345)

    def _append(self, part: Part) -> np.ndarray:
        cache, key = part.cache, part.adapter.key if part.adapter else None
        rows: list[np.ndarray] = []
        for index, token in enumerate(part.tokens):
            position = cache.length
            page = cache.pages[position // self.page_tokens]
            assert self._counts[page] == 1, "a shared page is written to"
            value = entry(token, key, position)
            content = self._pool[page]
            del content[position % self.page_tokens :]
            content.append(value)
            cache.tokens.append(token)
            cache.keys.append(key)
            if self.recurrent:
                cache.state = absorb(cache.state, value)
            if index in part.wanted:
                rows.append(self.logits(cache))
        return np.stack(rows) if rows else np.zeros((0, self.vocab_size), np.float32)

    def _entries(self, cache: FakeCache) -> list[int]:
        found = [value for page in cache.pages for value in self._pool[page]]
        return found[: cache.length]

    def _rewind(self, target: FakeCache, source: FakeCache, length: int) -> None:
        if self.recurrent:
            at_end = length == source.length
            target.state = source.state if at_end else source.snapshots.get(length, 0)
            shots = {n: state for n, state in source.snapshots.items() if n <= length}
            target.snapshots = shots

    def _take(self) -> int:
        page = self._free.pop()
        self._counts[page] = 1
        self._pool[page] = []
        return page


def draw_logits(seed: int, vocab_size: int) -> np.ndarray:
    """Make logits of a number: a few peaks, so that greedy and sampled draws depend on it."""
    logits = np.zeros(vocab_size, np.float32)
    for n in range(3):
        seed = (seed * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) & (2**64 - 1)
        logits[(seed >> 33) % vocab_size] += 4.0 - n
    return logits


def expect(
    prompt: Sequence[int],
    *,
    count: int,
    keys: Callable[[int], str | None],
    vocab_size: int,
    recurrent: bool,
    draw: Callable[[np.ndarray], int],
    ends: frozenset[int] = frozenset(),
) -> list[int]:
    """Draw an answer of at most `count` tokens alone, without an engine: what must come out.

    `keys(position)` is the adapter key of the token at a position.
    """
    entries: list[int] = []
    state = 0
    answer: list[int] = []
    tokens = list(prompt)
    while len(answer) < count:
        for position in range(len(entries), len(tokens)):
            value = entry(tokens[position], keys(position), position)
            entries.append(value)
            state = absorb(state, value) if recurrent else 0
        token = draw(draw_logits(mix(entries, state), vocab_size))
        if token in ends:
            return answer
        answer.append(token)
        tokens.append(token)
    return answer
