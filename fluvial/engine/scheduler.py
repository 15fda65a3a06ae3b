"""The fair, bounded queue in front of the engine."""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from fluvial.errors import BusyError

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Hands out waiting items round robin over lanes, first come first served within a lane.

    Invariants: before the n-th item of a lane at most n items of any other lane go; at most `limit`
    items wait; a lane takes memory only while something waits in it. Thread-safe.
    """

    def __init__(self, limit: int) -> None:
        """Make an empty queue for at most `limit` waiting items (1 or more)."""
        self._limit = limit
        self._lanes: OrderedDict[str, deque[T]] = OrderedDict()
        self._count = 0
        self._closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def put(self, item: T, *, lane: str) -> None:
        """Append `item` to `lane`; raise BusyError when the queue is full or closed."""
        with self._changed:
            if self._closed:
                raise BusyError("the engine is shutting down; try again once it is back")
            if self._count >= self._limit:
                raise BusyError(
                    f"{self._count} answers already wait for the engine, which is the limit "
                    f"(queue_limit = {self._limit}); try again shortly"
                )
            self._lanes.setdefault(lane, deque()).append(item)
            self._count += 1
            self._changed.notify()

    def take(self) -> T | None:
        """Wait for the next item and return it; None once the queue is closed."""
        with self._changed:
            while not self._lanes and not self._closed:
                self._changed.wait()
            return None if self._closed else self._pop()

    def remove(self, item: T, *, lane: str) -> bool:
        """Take `item` out of the queue; tell whether it was still waiting."""
        with self._changed:
            waiting = self._lanes.get(lane)
            if waiting is None or item not in waiting:
                return False
            waiting.remove(item)
            self._count -= 1
            if not waiting:
                del self._lanes[lane]
            return True

    def close(self) -> list[T]:
        """Refuse new items, wake every `take`, and return the items that still waited."""
        with self._changed:
            self._closed = True
            left = [item for waiting in self._lanes.values() for item in waiting]
            self._lanes.clear()
            self._count = 0
            self._changed.notify_all()
            return left

    def _pop(self) -> T:
        lane, waiting = next(iter(self._lanes.items()))
        item = waiting.popleft()
        self._count -= 1
        if waiting:
            self._lanes.move_to_end(lane)
        else:
            del self._lanes[lane]
        return item
