"""Decode on `transformers`, in a process of its own: for models that no declaration covers.

Slower than the packed graph, and nothing else differs for who asks: the sequences of a step run
one after another, so a sequence's result can't depend on what else is in the step. When the
process dies, answers under way get an EngineError, every cache is as if never filled
(`restorable` says 0), and the next request starts another process.
"""

import logging
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fluvial.child import Child, Reply
from fluvial.errors import ContextLengthError, EngineError, ModelError
from fluvial.frame import ClosedError
from fluvial.model.adapter import Adapter
from fluvial.model.outline import OFFLINE, OutlinedCheckpoint, encode_outline

if TYPE_CHECKING:
    from fluvial.engine.protocol import Part

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
PAGE_TOKENS = 16
KEPT_ADAPTERS = 32
"""Adapters that stay in the process between steps; the least recently used one goes first."""


@dataclass(eq=False)
class _Share:
    """Pages that the first of `members` holds; the others only look at its memory so far."""

    members: "list[FallbackCache]"
    pages: int = 0


@dataclass(eq=False)
class FallbackCache:
    """One sequence's state in the process. `tokens` are those it holds."""

    number: int
    generation: int
    tokens: list[int] = field(default_factory=list[int])
    snapshots: set[int] = field(default_factory=set[int])
    share: _Share = field(init=False)

    def __post_init__(self) -> None:
        self.share = _Share([self])

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def room_pages(self) -> int:
        """Pages that this sequence may fill."""
        return self.share.pages if self.share.members[0] is self else 0


class FallbackDecoder:
    """Stands where `Decoder` stands. Not thread-safe: one thread owns it."""

    page_tokens = PAGE_TOKENS

    def __init__(
        self,
        checkpoint: OutlinedCheckpoint,
        *,
        context_tokens: int,
        threads: int,
        cache_bytes: int | None = None,
    ) -> None:
        """Start the process and wait for it.

        `cache_bytes`: what all caches together may take (default: two full contexts); what
        recurrent layers keep beside their tokens is not counted.

        Raises ModelError when transformers can't run the model.
        """
        self.context_tokens = min(context_tokens, checkpoint.declaration.context_tokens)
        self.vocab_size = checkpoint.declaration.vocab_size
        self._family = checkpoint.declaration.family
        self._settings = {
            "path": str(checkpoint.path),
            "sha256": checkpoint.sha256,
            "outline": encode_outline(checkpoint.declaration),
            "threads": threads,
        }
        self._child: Child | None = None
        self._generation = 0
        self._numbers = 0
        self._adapters: OrderedDict[str, None] = OrderedDict()
        facts = self._start()
        self.recurrent = not facts["can_trim"]
        page_bytes = PAGE_TOKENS * facts["token_bytes"]
        pages = 2 * _count_pages(self.context_tokens)
        if cache_bytes is not None and page_bytes:
            pages = max(1, cache_bytes // page_bytes)
        self.total_pages = self.free_pages = pages
        log.warning("%s runs on transformers, slower than a family built in", self._family)

    def new_cache(self) -> FallbackCache:
        """Return an empty sequence; it holds no pages yet."""
        self._numbers += 1
        return FallbackCache(self._numbers, self._generation)

    def reserve(self, cache: FallbackCache, tokens: int) -> bool:
        """Make room for `tokens` in all. False, and nothing changed, when too few pages are free.

        A fork gets pages of its own here: growing copies all that it looked at.
        """
        wanted, held = _count_pages(tokens), cache.room_pages
        if wanted <= held:
            return True
        if wanted - held > self.free_pages:
            return False
        self.free_pages -= wanted - held
        if cache.share.members[0] is not cache:
            cache.share.members.remove(cache)
            cache.share = _Share([cache])
        cache.share.pages = wanted
        return True

    def step(self, parts: "Sequence[Part]") -> list[Floats]:
        """Append each part's tokens; return its wanted logits, float32 [len(wanted), V] each.

        Raises ContextLengthError when room was not reserved, EngineError when the process failed;
        then no cache has changed, or all are lost.
        """
        for part in parts:
            self._check_room(part)
        for part in parts:
            self._bring(part.adapter)
        shares = [
            {
                "cache": part.cache.number,
                "tokens": [int(token) for token in part.tokens],
                "wanted": [int(index) for index in part.wanted],
                "adapter": None if part.adapter is None else part.adapter.key,
            }
            for part in parts
        ]
        _, body = self._ask({"do": "step", "parts": shares})
        found = safetensors.numpy.load(body) if body else {}
        for part in parts:
            part.cache.generation = self._generation
            part.cache.tokens.extend(part.tokens)
        self._forget_adapters()
        nothing = np.zeros((0, self.vocab_size), np.float32)
        return [found.get(str(index), nothing) for index in range(len(parts))]

    def snapshot(self, cache: FallbackCache) -> None:
        """Remember this length, so that `fork` and `truncate` can come back to it."""
        if self.recurrent and self._is_alive(cache) and cache.length:
            reply, _ = self._ask({"do": "snapshot", "cache": cache.number})
            cache.snapshots = set(reply["lengths"])

    def restorable(self, cache: FallbackCache, length: int) -> int:
        """Return the greatest length, at most `length`, that `fork` and `truncate` can go to."""
        if not self._is_alive(cache):
            return 0
        if not self.recurrent or length >= cache.length:
            return min(length, cache.length)
        return max((n for n in cache.snapshots if n <= length), default=0)

    def fork(self, cache: FallbackCache, length: int) -> FallbackCache:
        """Return a new sequence of the first `length` tokens, which shares memory until it grows.

        Its pages are counted once it grows, or once the sequence it came from is released.
        Raises EngineError for a length that is not restorable.
        """
        fresh = self.new_cache()
        self._check_restorable(cache, length)
        if length:
            numbers = {"cache": cache.number, "to": fresh.number}
            self._ask({"do": "fork", **numbers, "length": length})
            fresh.tokens = cache.tokens[:length]
            fresh.snapshots = {n for n in cache.snapshots if n <= length}
            fresh.share = cache.share
            fresh.share.members.append(fresh)
        return fresh

    def truncate(self, cache: FallbackCache, length: int) -> None:
        """Forget the tokens from `length` on. Raises EngineError when that is not restorable."""
        if length >= cache.length:
            return
        self._check_restorable(cache, length)
        if length:
            self._ask({"do": "fork", "cache": cache.number, "to": cache.number, "length": length})
        else:
            self._drop(cache)
        del cache.tokens[length:]
        cache.snapshots = {n for n in cache.snapshots if n <= length}
        if cache.share.members[0] is cache:
            self._shrink(cache.share, length)

    def release(self, cache: FallbackCache) -> None:
        """Give everything back; the cache must not be used again."""
        self._drop(cache)
        share, was_first = cache.share, cache.share.members[0] is cache
        share.members.remove(cache)
        if was_first:
            self._shrink(share, max((fork.length for fork in share.members), default=0))
        cache.tokens, cache.snapshots, cache.share = [], set(), _Share([cache])

    def export(self, cache: FallbackCache) -> dict[str, NDArray[Any]]:
        """Copy a sequence's state out, for keeping on disk."""
        if not cache.length:
            return {}
        self._check_alive(cache)
        return dict(safetensors.numpy.load(self._ask({"do": "export", "cache": cache.number})[1]))

    def restore(
        self, tokens: Sequence[int], tensors: Mapping[str, NDArray[Any]]
    ) -> FallbackCache | None:
        """Make a sequence of what `export` gave; None when too few pages are free.

        Raises ModelError when the tensors don't fit the model or the tokens.
        """
        cache = self.new_cache()
        if not tokens:
            return cache
        if not self.reserve(cache, len(tokens)):
            return None
        header = {"do": "restore", "cache": cache.number, "length": len(tokens)}
        try:
            self._ask(header, safetensors.numpy.save(dict(tensors)))
        except EngineError as error:
            self.release(cache)
            raise ModelError(error.message) from None
        except (SafetensorError, ValueError) as error:
            self.release(cache)
            raise ModelError(f"a saved state can't be read: {error}") from None
        cache.tokens = list(tokens)
        return cache

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._child is not None:
            self._child.end()
            self._child.release()
            self._child = None
            self._generation += 1

    def _shrink(self, share: _Share, length: int) -> None:
        surplus = max(0, share.pages - _count_pages(length))
        share.pages -= surplus
        self.free_pages += surplus

    def _is_alive(self, cache: FallbackCache) -> bool:
        return not cache.tokens or cache.generation == self._generation

    def _check_alive(self, cache: FallbackCache) -> None:
        if not self._is_alive(cache):
            raise EngineError("this sequence was lost when the model's process ended")

    def _check_restorable(self, cache: FallbackCache, length: int) -> None:
        if length and self.restorable(cache, length) != length:
            raise EngineError(f"a sequence of {cache.length} tokens can't go back to {length}")

    def _check_room(self, part: "Part") -> None:
        cache: FallbackCache = part.cache
        self._check_alive(cache)
        total = cache.length + len(part.tokens)
        if total > self.context_tokens or _count_pages(total) > cache.room_pages:
            raise ContextLengthError(
                f"{total} tokens do not fit the room that was reserved, or the context of "
                f"{self.context_tokens}"
            )

    def _bring(self, adapter: Adapter | None) -> None:
        """Make sure that the process has `adapter`."""
        if adapter is None:
            return
        if adapter.key not in self._adapters:
            self._ask(
                {"do": "adapt", "key": adapter.key}, safetensors.numpy.save(dict(adapter.tensors))
            )
        self._adapters[adapter.key] = None
        self._adapters.move_to_end(adapter.key)

    def forget_adapter(self, key: str) -> None:
        """Have the process let go of the adapter with this key."""
        if key in self._adapters:
            del self._adapters[key]
            self._ask({"do": "forget", "key": key})

    def _forget_adapters(self) -> None:
        while len(self._adapters) > KEPT_ADAPTERS:
            key, _ = self._adapters.popitem(last=False)
            self._ask({"do": "forget", "key": key})

    def _drop(self, cache: FallbackCache) -> None:
        """Let the process forget a sequence; nothing to do when the process is another by now."""
        if cache.tokens and self._child is not None and self._is_alive(cache):
            try:
                self._ask({"do": "release", "cache": cache.number})
            except EngineError:
                log.warning("the process of %s ended while a sequence was released", self._family)

    def _ask(self, header: dict[str, Any], body: bytes = b"") -> Reply:
        try:
            reply, data = self._require().ask(header, body)
        except (ClosedError, ValueError) as error:
            self._lose()
            raise EngineError(
                f"the process that runs {self._family} ended; a new one takes the next answer"
            ) from error
        if "error" in reply:
            raise EngineError(f"transformers could not {header['do']}: {reply['error']}")
        return reply, data

    def _require(self) -> Child:
        if self._child is None:
            try:
                self._start()
            except ModelError as error:
                raise EngineError(error.message) from error
        return cast(Child, self._child)

    def _start(self) -> dict[str, Any]:
        try:
            self._child = Child(
                "fluvial.engine.fallback_worker", settings=self._settings, environment=OFFLINE
            )
            facts, _ = self._child.receive()
        except (ClosedError, ValueError):
            self._lose()
            raise ModelError(f"the process that runs {self._family} did not start") from None
        if "error" in facts:
            self._lose()
            raise ModelError(facts["error"])
        return facts

    def _lose(self) -> None:
        self.close()
        self._adapters.clear()


def _count_pages(tokens: int) -> int:
    return math.ceil(tokens / PAGE_TOKENS)
