"""Who is told when a session changes: an in-process hub, one bounded queue per listener.

Anyone on any thread may publish. A listener lives on the event loop. One that does not keep up is
dropped with a last event that says so, because a stream with a silent gap would be worse.
"""

import asyncio
import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from fluvial.types import Reading, Session

LISTENER_EVENTS = 256
"""Events that may wait for one listener."""

READING_INTERVAL_S = 0.5
"""Progress of a reading is told at most this often; a change of its status always is."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One change: `kind` is session, message, reading, score or version, `record` the changed thing
    from `fluvial.types` (an index and a score for `score`). Or `lagged`, without a record."""

    kind: str
    session: str
    record: object = None


class Listener:
    """The events of one session, from the moment of its creation. Iterate it, then `close` it."""

    def __init__(self, hub: "Hub", *, session: str, capacity: int) -> None:
        self.session = session
        self.loop = asyncio.get_running_loop()
        self._hub = hub
        self._capacity = capacity
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._open = True

    def __aiter__(self) -> "Listener":
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    def offer(self, event: Event) -> None:
        """Queue an event, or end with `lagged` where the listener is too far behind."""
        if not self._open:
            return
        if self._queue.qsize() < self._capacity:
            self._queue.put_nowait(event)
            return
        self._queue.put_nowait(Event(kind="lagged", session=self.session))
        self.end()

    def end(self) -> None:
        """Let the iteration finish after what is queued."""
        if self._open:
            self._open = False
            self._queue.put_nowait(None)

    def close(self) -> None:
        """Stop listening."""
        self._open = False
        self._hub.remove(self)


class Hub:
    """Carries events from any thread to the listeners of a session."""

    def __init__(self, *, capacity: int = LISTENER_EVENTS) -> None:
        self._capacity = capacity
        self._listeners: defaultdict[str, set[Listener]] = defaultdict(set)
        self._lock = threading.Lock()
        self._told: dict[str, tuple[str, float]] = {}
        self._revisions: dict[str, int] = {}
        self._closed = False
        self._watchers: list[Callable[[], None]] = []

    def watch(self, wake: Callable[[], None]) -> None:
        """Have `wake` called whenever a session or a version changes, on any thread; quick."""
        self._watchers.append(wake)

    def listen(self, session: str) -> Listener:
        """Begin to listen; must be called on the event loop."""
        listener = Listener(self, session=session, capacity=self._capacity)
        with self._lock:
            self._listeners[session].add(listener)
        if self._closed:
            listener.end()
        return listener

    def remove(self, listener: Listener) -> None:
        with self._lock:
            self._listeners[listener.session].discard(listener)
            if not self._listeners[listener.session]:
                del self._listeners[listener.session]

    def count(self, session: str) -> int:
        """Count the listeners of a session."""
        return len(self._of(session))

    def publish(self, kind: str, session: Session, record: object) -> None:
        """Tell the listeners of a session; callable from any thread, never blocks on them."""
        if kind in ("session", "version"):
            with self._lock:
                self._revisions[session.id] = self._revisions.get(session.id, 0) + 1
            for wake in self._watchers:
                wake()
        if isinstance(record, Reading) and self._is_too_soon(record):
            return
        event = Event(kind=kind, session=session.id, record=record)
        for listener in self._of(session.id):
            _call(listener.loop, lambda each=listener: each.offer(event))

    def revision(self, session: str) -> int:
        """Count the changes of a session's own record; another count means: read it again."""
        return self._revisions.get(session, 0)

    def end(self, session: str) -> None:
        """End the streams of one session (it was deleted)."""
        with self._lock:
            self._revisions.pop(session, None)
        for listener in self._of(session):
            _call(listener.loop, listener.end)

    def close(self) -> None:
        """End all streams, and each new one at once."""
        self._closed = True
        with self._lock:
            every = [each for group in self._listeners.values() for each in group]
        for listener in every:
            _call(listener.loop, listener.end)

    def _of(self, session: str) -> list[Listener]:
        with self._lock:
            return list(self._listeners.get(session, ()))

    def _is_too_soon(self, reading: Reading) -> bool:
        now = time.monotonic()
        with self._lock:
            status, told = self._told.get(reading.id, ("", 0.0))
            if reading.status == status == "reading" and now - told < READING_INTERVAL_S:
                return True
            if reading.status in ("queued", "reading"):
                self._told[reading.id] = (reading.status, now)
            else:
                self._told.pop(reading.id, None)
        return False


def _call(loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
    # A loop that has just closed has no listeners left to tell.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(action)
