"""Adapters in memory, the least lately used making room; and what they are called there."""

import threading
from collections import OrderedDict
from collections.abc import Collection

from fluvial.model.adapter import Adapter
from fluvial.types import Session


def make_key(session: Session, number: int) -> str:
    """Name a version of a session, for caches of all kinds.

    Not by its content: what one session computes must not show in another's speed, and what is
    deleted in one must go whatever others hold.
    """
    return f"{session.id}/{number}"


class AdapterCache:
    """The `kept` adapters last used. Thread-safe."""

    def __init__(self, *, kept: int) -> None:
        self._kept = kept
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> Adapter | None:
        """Return the adapter with this key, if it is here."""
        with self._lock:
            if key in self._adapters:
                self._adapters.move_to_end(key)
            return self._adapters.get(key)

    def keep(self, adapter: Adapter) -> Adapter:
        """Keep an adapter; returns it."""
        with self._lock:
            self._adapters[adapter.key] = adapter
            while len(self._adapters) > self._kept:
                self._adapters.popitem(last=False)
        return adapter

    def drop(self, keys: Collection[str]) -> None:
        """Let go of adapters; unknown keys are fine."""
        with self._lock:
            for key in keys:
                self._adapters.pop(key, None)
