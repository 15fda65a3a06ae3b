"""Doubles for the benchmarks: a decoder that computes nothing, and sides that tell set speeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.protocol import Part


@dataclass(eq=False)
class ListCache:
    tokens: list[int] = field(default_factory=list[int])
    room: int = 0

    @property
    def length(self) -> int:
        return len(self.tokens)


class SuccessorDecoder:
    """After token t it expects t + 1 (logit 3, all others 0). Refuses what was not reserved."""

    vocab_size, page_tokens, total_pages, free_pages = 269, 16, 1000, 1000
    recurrent = False

    def __init__(self, *, context_tokens: int = 2048) -> None:
        self.context_tokens = context_tokens
        self.open: set[ListCache] = set()
        self.steps: list[list[tuple[int, str | None, tuple[int, ...]]]] = []
        self.trace: Any = None

    def new_cache(self) -> ListCache:
        cache = ListCache()
        self.open.add(cache)
        return cache

    def reserve(self, cache: ListCache, tokens: int) -> bool:
        if tokens > self.context_tokens:
            return False
        cache.room = max(cache.room, tokens)
        return True

    def step(self, parts: Sequence[Part]) -> list[NDArray[np.float32]]:
        self.steps.append(
            [(len(p.tokens), p.adapter.key if p.adapter else None, tuple(p.wanted)) for p in parts]
        )
        answers: list[NDArray[np.float32]] = []
        for part in parts:
            assert part.cache in self.open
            part.cache.tokens.extend(part.tokens)
            assert part.cache.length <= part.cache.room, "no room was reserved"
            logits = np.zeros((len(part.wanted), self.vocab_size), np.float32)
            for row, index in enumerate(part.wanted):
                logits[row, (part.tokens[index] + 1) % self.vocab_size] = 3
            answers.append(logits)
        return answers

    def snapshot(self, cache: ListCache) -> None:
        pass

    def restorable(self, cache: ListCache, length: int) -> int:
        return length

    def fork(self, cache: ListCache, length: int) -> ListCache:
        raise NotImplementedError

    def truncate(self, cache: ListCache, length: int) -> None:
        del cache.tokens[length:]
        cache.room = length

    def release(self, cache: ListCache) -> None:
        self.open.remove(cache)

    def forget_adapter(self, key: str) -> None:
        raise NotImplementedError

    def export(self, cache: ListCache) -> dict[str, NDArray[Any]]:
        raise NotImplementedError

    def restore(
        self, tokens: Sequence[int], tensors: Mapping[str, NDArray[Any]]
    ) -> ListCache | None:
        raise NotImplementedError

    def stop_profiling(self) -> Any:
        return self.trace


@dataclass
class Journal:
    """All that the sides of a run were opened with and asked for, in order."""

    opened: list[tuple[str, dict[str, Any]]] = field(default_factory=list[Any])
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list[Any])
    open_now: list[str] = field(default_factory=list[str])
    most_open: int = 0

    def open_side(self, name: str, settings: Mapping[str, Any]) -> "SetSide":
        self.opened.append((name, dict(settings)))
        self.open_now.append(name)
        self.most_open = max(self.most_open, len(self.open_now))
        return SetSide(name, dict(settings), self)


class SetSide:
    """Ours decodes 200 tokens a second with two threads, 100 with any other; the peer half that."""

    def __init__(self, name: str, settings: dict[str, Any], journal: Journal) -> None:
        self._name, self._settings, self._journal = name, settings, journal
        self.loaded = {"load_s": 0.5 if name == "ours" else 0.25}

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        self._journal.asked.append((self._name, do, values))
        if do == "measure_memory":
            return {"rss_mb": 100.0, "peak_mb": 120.0}
        if do == "measure":
            return {"value": 10.0 * values["threads"]}
        if do == "score":
            nats = {"ours": 2.0, "reference": 1.9, "peer": 2.1}[self._name]
            return {"value": [[nats] * (len(window) - 1) for window in values["windows"]]}
        speed = 200.0 if self._settings["threads"] == 2 else 100.0
        if self._name == "peer":
            speed /= 2
        if values.get("adapter"):
            speed *= 0.75
        if len(values.get("prompt", ())) > 1000:
            speed *= 0.6
        return {"value": speed}

    def close(self) -> None:
        if self._name in self._journal.open_now:
            self._journal.open_now.remove(self._name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()
