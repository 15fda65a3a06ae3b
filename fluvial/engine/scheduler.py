"""The fair, bounded queue in front of the engine."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

from fluvial.errors import BusyError

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Hands out waiting items round robin over lanes, first come first served within a lane.

    Invariants: before the n-th item of a lane at most n items of any other lane go; at most `limit`
    items wait; a lane takes memory only while something waits in it. Thread-safe; nothing waits
    in here for long.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty queue for at most `limit` waiting items (1 or more)."""
        self._limit = limit
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0
        self._closed = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def put(self, *items: T, lane: str, retry_after_s: float = 1.0) -> None:
        """Append `items` to `lane`, all or none.

        Raises BusyError, with `retry_after_s`, when they do not fit or the queue is closed.
        """
        with self._lock:
            if self._closed:
                raise BusyError("the engine is shutting down; try again once it is back")
            if self._count + len(items) > self._limit:
                raise BusyError(
                    f"{self._count} answers already wait for the engine, where {self._limit} may "
                    f"(queue_limit = {self._limit}); try again shortly",
                    retry_after_s=retry_after_s,
                )
            self._lanes.setdefault(lane, deque()).extend(items)
            self._count += len(items)

    def take(self, *, ready: Callable[[T], bool] = lambda _: True) -> T | None:
        """Return the next item, None when there is none; lanes whose next isn't ready are passed.

        A lane that is passed keeps its turn.
        """
        with self._lock:
            for lane, waiting in self._lanes.items():
                if ready(waiting[0]):
                    return self._pop(lane)
            return None

    def remove(self, item: T, *, lane: str) -> bool:
        """Take `item` out of the queue; tell whether it was still waiting."""
        with self._lock:
            waiting = self._lanes.get(lane)
            if waiting is None or item not in waiting:
                return False
            waiting.remove(item)
            self._count -= 1
            if not waiting:
                del self._lanes[lane]
            return True

    def find(self, chosen: Callable[[T], bool]) -> list[tuple[str, T]]:
        """Return the waiting items that `chosen` is true of, each with its lane."""
        with self._lock:
            everything = [(lane, item) for lane, items in self._lanes.items() for item in items]
        return [(lane, item) for lane, item in everything if chosen(item)]

    def close(self) -> list[T]:
        """Refuse new items, and return those that still waited."""
        with self._lock:
            self._closed = True
            left = [item for waiting in self._lanes.values() for item in waiting]
            self._lanes.clear()
            self._count = 0
            return left

    def _pop(self, lane: str) -> T:
        waiting = self._lanes[lane]
        item = waiting.popleft()
        self._count -= 1
        if waiting:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return item
