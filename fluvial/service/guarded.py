"""An answer while it is guarded: read from the engine, held back, checked, passed on."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from fluvial.errors import EngineError, FluvialError
from fluvial.guard.check import Finding
from fluvial.guard.guard import Decision, Guard
from fluvial.guard.hold import Ask, Holder
from fluvial.guard.policy import Language, pick_language
from fluvial.service.protocol import Generation
from fluvial.types import Delta, GuardNote, TokenLogprob, Usage

log = logging.getLogger(__name__)


class Run(Protocol):
    """Runs a check off the event loop, for a limited time."""

    def __call__(
        self, check: Callable[[], Sequence[Finding]]
    ) -> Coroutine[Any, Any, Sequence[Finding]]: ...


@dataclass(frozen=True)
class _Told:
    """Logprobs that wait for the text that their tokens are in, `start` to `end`."""

    logprobs: tuple[TokenLogprob, ...]
    start: int
    end: int


class GuardedGeneration:
    """A generation whose text is passed on only once it is checked.

    Its last delta carries `guard` where the guard changed or ended the answer; `finish` is then
    `content_filter` where it ended it. Logprobs wait for their text and are never told of text that
    is not shown. Raises GuardError when a check fails.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        guard: Guard,
        context: str,
        question: str,
        run: Run,
        record: Callable[[Decision, str], None],
    ) -> None:
        """Guard `generation`; `context` is its prompt, `question` what the user asked last."""
        self._generation = generation
        self._guard = guard
        self._context = context
        self._language: Language = pick_language(question)
        self._run = run
        self._tell = record
        self._holder = Holder(guard)
        self._waiting: deque[_Told] = deque()
        self._since_s: float | None = None
        self._pending: asyncio.Future[Delta] | None = None
        self._last: Delta | None = None
        self._error: FluvialError | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if self._ended:
            raise StopAsyncIteration
        try:
            while True:
                delta = await self._step()
                if delta is not None:
                    return delta
        except BaseException:
            self._close()
            raise

    def cancel(self) -> None:
        """Stop the answer; what was written is checked, then shown."""
        self._generation.cancel()

    async def _step(self) -> Delta | None:
        """Check what is due, or read on; return what can be passed on, if anything."""
        ask = self._holder.ask(rush=self._is_late())
        if ask is not None:
            return await self._check(ask)
        if self._last is not None or self._error is not None:
            return await self._finish()
        await self._read()
        return None

    async def _check(self, ask: Ask) -> Delta | None:
        text = self._holder.text[ask.start : ask.end]
        found = await self._run(
            lambda: self._guard.find(text, place="answer", context=self._context)
        )
        shown = self._holder.take(ask, found)
        self._since_s = None if not self._holder.holds else time.monotonic()
        if self._holder.ruling is not None:
            return await self._stop()
        logprobs = self._release_logprobs()
        return Delta(text=shown, logprobs=logprobs) if shown or logprobs else None

    async def _stop(self) -> Delta:
        """End the answer: the engine stops, and people are told why."""
        ruling = self._holder.ruling
        assert ruling is not None  # noqa: S101 - it is why this was called
        message = self._guard.policy.speak(ruling.category, language=self._language)
        decision = Decision(
            action="stop",
            category=ruling.category,
            score=ruling.finding.score,
            check=ruling.finding.check,
            message=message,
            flags=tuple(sorted(self._holder.flags)),
        )
        # First of all: the engine may fail, too, and what was found is on record all the same.
        await asyncio.to_thread(self._tell, decision, self._holder.text)
        usage = await self._drain()
        self._close()
        return Delta(text="", finish="content_filter", usage=usage, guard=decision.note)

    async def _drain(self) -> Usage | None:
        """Stop the engine and wait for what the answer took."""
        self._generation.cancel()
        with contextlib.suppress(FluvialError, StopAsyncIteration):
            while self._last is None and self._error is None:
                self._take(await self._next())
        if self._last is not None and self._last.usage is not None:
            return self._last.usage
        raise self._error or EngineError("the engine ended the answer without saying why")

    async def _finish(self) -> Delta:
        """Pass on how the answer ended, all of it being checked."""
        note = await self._tell_changes()
        self._close()
        if self._error is not None:
            raise self._error
        assert self._last is not None  # noqa: S101 - one of both is why this was called
        return replace(self._last, text="", logprobs=self._release_logprobs(), guard=note)

    async def _tell_changes(self) -> GuardNote | None:
        flags = tuple(sorted(self._holder.flags))
        masked = [category for _, _, category in self._holder.masked]
        if not flags and not masked:
            return None
        decision = Decision(
            action="redact" if masked else "flag",
            category=masked[0] if masked else flags[0],
            score=1.0,
            check="",
            flags=flags,
        )
        await asyncio.to_thread(self._tell, decision, self._holder.text)
        return decision.note

    async def _read(self) -> None:
        """Take in the next piece, or return without one when held text has waited long enough."""
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._generation.__anext__())
        await asyncio.wait({self._pending}, timeout=self._left_s())
        if self._pending.done():
            self._take(await self._next())

    async def _next(self) -> Delta | FluvialError:
        pending = self._pending or asyncio.ensure_future(self._generation.__anext__())
        self._pending = None
        try:
            return await pending
        except FluvialError as error:
            return error
        except StopAsyncIteration:
            return EngineError("the engine ended the answer without saying why")
        except Exception:
            # What came before is still checked and shown, as with an error raised on purpose.
            log.exception("an answer failed")
            return EngineError("the answer failed; the server's log says more")

    def _take(self, piece: Delta | FluvialError) -> None:
        if isinstance(piece, FluvialError):
            self._error = piece
            self._holder.close()
            return
        start = len(self._holder.text)
        self._holder.push(piece.text)
        logprobs = piece.logprobs if piece.finish is None else self._trim(piece.logprobs)
        if logprobs:
            end = len(self._holder.text)
            told = sum(len(each.text) for each in logprobs)
            self._waiting.append(_Told(logprobs, min(start, end - told), end))
        if self._since_s is None and self._holder.holds:
            self._since_s = time.monotonic()
        if piece.finish is not None:
            self._last = piece
            self._holder.close()

    def _trim(self, logprobs: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        """Leave out a last token that goes on after the end of the text: that is not checked."""
        if logprobs and logprobs[-1].bytes and not self._holder.text.endswith(logprobs[-1].text):
            return logprobs[:-1]
        return logprobs

    def _left_s(self) -> float | None:
        """Return how long held text may still wait; None while none is held."""
        if self._since_s is None:
            return None
        return max(0.0, self._since_s + self._delay_s - time.monotonic())

    def _is_late(self) -> bool:
        return self._left_s() == 0.0

    @property
    def _delay_s(self) -> float:
        return self._guard.policy.hold.delay_ms / 1000

    def _release_logprobs(self) -> tuple[TokenLogprob, ...]:
        """Return those of the text that is shown; what was masked has none."""
        released: list[TokenLogprob] = []
        while self._waiting and self._waiting[0].end <= self._holder.released:
            told = self._waiting.popleft()
            if not any(a < told.end and told.start < b for a, b, _ in self._holder.masked):
                released += told.logprobs
        return tuple(released)

    def _close(self) -> None:
        self._ended = True
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
