"""One answer being written: drives the generation, keeps the store current, serves the listener.

The turn is a task of its own. A listener that goes away cancels it, but never interrupts it: what
was written so far still reaches the store, and its place in the engine is still given back.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fluvial.errors import EngineError, FluvialError
from fluvial.service.protocol import Generation
from fluvial.types import Delta, FinishReason, GuardNote, PassageNote

FLUSH_INTERVAL_S = 1.0
"""A partial answer reaches the store about this often, so that a crash loses little of it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What a turn leaves in its session. `version` is the one in force when it is asked for."""

    session: str
    user_message: str
    message: str
    version: int
    passages: tuple[PassageNote, ...]


class Record(Protocol):
    """Where an answer is kept while it is written. Its methods may raise StorageError."""

    @property
    def receipt(self) -> Receipt: ...

    async def flush(self, text: str) -> None: ...

    async def finish(
        self, text: str, *, finish: FinishReason, guard: GuardNote | None = None
    ) -> None: ...


class Turn:
    """Iterate it for the pieces of the answer; the last one comes when the answer is stored.

    Raises, from the iteration, what went wrong with the answer. `cancel` at any time.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        record: Record | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.created_at = time.time()
        self._generation = generation
        self._record = record
        self._on_end = on_end
        self._text: list[str] = []
        self._pieces: asyncio.Queue[Delta | FluvialError | None] = asyncio.Queue()
        self._flushed_s = time.monotonic()
        self._task = asyncio.create_task(self._run())

    @property
    def receipt(self) -> Receipt | None:
        """What the turn leaves in its session; None where it has none."""
        return self._record.receipt if self._record is not None else None

    def __aiter__(self) -> "Turn":
        return self

    async def __anext__(self) -> Delta:
        piece = await self._pieces.get()
        if piece is None:
            raise StopAsyncIteration
        if isinstance(piece, FluvialError):
            raise piece
        return piece

    def cancel(self) -> None:
        """Stop the answer; it ends with finish `cancelled` and what was written is kept."""
        self._generation.cancel()

    async def wait(self) -> None:
        """Return when the answer has ended and is stored."""
        await asyncio.wait([self._task])

    async def _run(self) -> None:
        last: Delta | FluvialError | None = None
        try:
            last = await self._write()
        except FluvialError as error:
            last = await self._fail(error)
        except Exception:
            log.exception("an answer failed")
            last = await self._fail(EngineError("the answer failed; the server's log says more"))
        finally:
            # The session is free before the listener hears of the end: it may go on at once.
            self._generation.cancel()
            self._on_end()
            self._pieces.put_nowait(last)
            self._pieces.put_nowait(None)

    async def _write(self) -> Delta:
        async for delta in self._generation:
            self._text.append(delta.text)
            if delta.finish is not None:
                await self._finish(delta.finish, guard=delta.guard)
                return delta
            self._pieces.put_nowait(delta)
            await self._flush()
        raise EngineError("the engine ended the answer without saying why")

    async def _flush(self) -> None:
        now = time.monotonic()
        if self._record is None or now - self._flushed_s < FLUSH_INTERVAL_S:
            return
        self._flushed_s = now
        await self._record.flush("".join(self._text))

    async def _finish(self, finish: FinishReason, *, guard: GuardNote | None = None) -> None:
        if self._record is not None:
            await self._record.finish("".join(self._text), finish=finish, guard=guard)

    async def _fail(self, error: FluvialError) -> FluvialError:
        self._generation.cancel()
        # The same fault may hinder the mark; the store sets it at the next start.
        with contextlib.suppress(FluvialError):
            await self._finish("error")
        return error
