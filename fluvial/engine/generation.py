"""One answer on its way from the engine's thread to whoever asked for it."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from fluvial.errors import FluvialError
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, FinishReason, Sampling, Usage

if TYPE_CHECKING:
    from fluvial.engine.grammar import GrammarState


def use_base() -> Adapter | None:
    """Return None: no adapter, exactly the base."""
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What was asked of the engine: already checked, so that `prompt` and `limit_tokens` fit.

    `lane` is what fairness counts by, `owner` what caches are shared within. `deadline_s` is a
    time of the engine's clock. `grammar` is this answer's own. `choice` numbers the answers to one
    prompt; `first` is the one of them that reads it (None: this is it), and `shared` tells that
    one that others wait.
    """

    prompt: list[int]
    sampling: Sampling
    limit_tokens: int
    lane: str
    owner: str = ""
    adapter: Callable[[], Adapter | None] = use_base
    deadline_s: float | None = None
    grammar: "GrammarState | None" = None
    choice: int = 0
    first: "Generation | None" = None
    shared: bool = False


class Generation:
    """The deltas of one answer, as an async iterator (any event loop) or a plain blocking one.

    Invariants: exactly one delta carries `finish` and `usage`, and it is the last; where the engine
    failed instead, the deltas before come first, then its FluvialError is raised. Nothing that the
    reader does blocks the engine: unread deltas are kept, at most one for each token. A reader
    that leaves early calls `cancel`. One reader at a time.
    """

    def __init__(self, request: Request, *, on_cancel: Callable[["Generation"], None]) -> None:
        """Begin an answer to `request`; `on_cancel` is told of the first `cancel`."""
        self.request = request
        self._on_cancel = on_cancel
        self._deltas: deque[Delta] = deque()
        self._error: FluvialError | None = None
        self._ended = False
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.prompt_read = False

    @property
    def ready(self) -> bool:
        """Whether nothing but a place is missing: an answer to a shared prompt waits for it."""
        first = self.request.first
        return first is None or first.prompt_read or first.ended

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, template included."""
        return len(self.request.prompt)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled.is_set()

    @property
    def ended(self) -> bool:
        """Whether the engine is done with this answer; deltas may still wait to be read."""
        return self._ended

    def cancel(self) -> None:
        """End the answer after the step under way. Safe from any thread, at any time, twice."""
        with self._changed:
            if self._ended or self._cancelled.is_set():
                return
            self._cancelled.set()
        self._on_cancel(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        while True:
            with self._changed:
                delta = self._next()
                if delta is not None:
                    return delta
                if self._ended:
                    raise StopAsyncIteration
                woken = asyncio.Event()
                self._waiter = (asyncio.get_running_loop(), woken)
            await woken.wait()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delta:
        with self._changed:
            while (delta := self._next()) is None:
                if self._ended:
                    raise StopIteration
                self._changed.wait()
            return delta

    def emit(self, delta: Delta) -> None:
        """Pass on a piece of the answer. For the engine; after one with `finish`, nothing goes."""
        self._append(delta, ended=delta.finish is not None)

    def end_unstarted(self, reason: FinishReason) -> None:
        """End an answer of which nothing was written. For the engine."""
        usage = Usage(prompt_tokens=self.prompt_tokens, completion_tokens=0)
        self.emit(Delta(text="", finish=reason, usage=usage))

    def fail(self, error: FluvialError) -> None:
        """End the answer with an error. For the engine; nothing may follow."""
        with self._changed:
            if not self._ended:
                self._error, self._ended = error, True
                self._wake()

    def _append(self, delta: Delta, *, ended: bool) -> None:
        with self._changed:
            if not self._ended:
                self._deltas.append(delta)
                self._ended = ended
                self._wake()

    def _next(self) -> Delta | None:
        """Return the next delta, None when none is there; raise the error that ended it, once."""
        if self._deltas:
            return self._deltas.popleft()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return None

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._waiter is None:
            return
        (loop, woken), self._waiter = self._waiter, None
        # A reader whose loop was closed while it waited is gone; the answer is nobody's loss.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(woken.set)
