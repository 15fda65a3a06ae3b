"""The sequences that run at once, one step after another. Has no thread of its own."""

import logging
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.generation import Generation
from fluvial.engine.memory import Memory
from fluvial.engine.pace import Pace
from fluvial.engine.plan import share_tokens
from fluvial.engine.prefix import PrefixStore
from fluvial.engine.protocol import Decoder, Part
from fluvial.engine.scheduler import FairQueue
from fluvial.engine.sequence import Sequence
from fluvial.errors import EngineError, FluvialError
from fluvial.types import FinishReason

if TYPE_CHECKING:
    from fluvial.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

Planned = list[tuple[Sequence, Part]]

_NO_ROOM = "the caches have no room for this answer, although nothing else is in them"
EXPIRY_INTERVAL_S = 0.05
"""How often deadlines of answers that still wait are looked at."""


class Batch:
    """Runs at most `batch_limit` sequences; the others wait in `queue`.

    Rows stay in the order in which they were admitted. Pages go to older rows first: where they run
    out, kept prefixes are thrown out, then the youngest row loses its cache and waits for pages to
    compute it again. So the oldest row always goes on, and every row becomes the oldest: no
    deadlock, no starvation. While a row waits for pages, none is admitted.

    A step that fails is taken apart: its rows go on alone, one after another, until each has passed
    the tokens of that step; what fails alone is failed, and nothing else.

    All methods but `withdraw` belong on the decoder's thread.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        queue: FairQueue[Generation],
        tokenizer: "Tokenizer",
        prefixes: PrefixStore,
        batch_limit: int = 8,
        step_tokens: int = 256,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`step_tokens`: the most tokens of a step, at least `batch_limit`."""
        self.rows: list[Sequence] = []
        self.pace = Pace(step_tokens=step_tokens)
        self._decoder = decoder
        self._queue = queue
        self._tokenizer = tokenizer
        self._memory = Memory(decoder, prefixes=prefixes)
        self._prefixes = prefixes
        self._batch_limit = batch_limit
        self._step_tokens = max(step_tokens, batch_limit)
        self._clock = clock
        self._expiry_s = 0.0

    def step(self) -> bool:
        """Let rows join and leave, then compute one step; False when there was nothing to do."""
        self._end_unwanted()
        self._admit()
        self._prefixes.tend(self._clock())
        planned = self._plan()
        if planned:
            self._compute(planned)
        elif self.rows and all(row.cache is None for row in self.rows):
            self._fail(self.rows[0], EngineError(_NO_ROOM))
        return bool(planned or self.rows)

    def withdraw(self, generation: Generation) -> None:
        """End a cancelled answer here if it still waits; else the next step does. Thread-safe."""
        if self._queue.remove(generation, lane=generation.request.lane):
            generation.end_unstarted("cancelled")

    def forget(self, lane: str) -> None:
        """Drop what is kept of `lane`, and keep nothing of its answers under way."""
        for row in self.rows:
            if row.lane == lane:
                row.may_keep = False
        self._prefixes.forget(lane)

    def forget_adapters(self, keys: Collection[str], *, owner: str) -> None:
        """Drop the adapters with these keys, and what they computed for `owner`."""
        for row in self.rows:
            if row.request.owner == owner and any(name in keys for _, name in row.versions):
                row.may_keep = False
        for key in keys:
            self._prefixes.forget_adapter(key, owner=owner)
            self._decoder.forget_adapter(key)

    def idle_s(self) -> float | None:
        """Return after how many seconds a step is due even if nothing comes; None: never."""
        due_s = self._prefixes.next_idle_s
        return None if due_s is None else max(0.0, due_s - self._clock())

    def fail_all(self, error: FluvialError) -> None:
        """End every row with `error`: a fault of ours that no single answer is to blame for."""
        for row in list(self.rows):
            self._fail(row, error)

    def close(self) -> None:
        """End all rows as cancelled, and send what is kept to disk, where there is one."""
        for row in list(self.rows):
            self._end(row, "cancelled")
        self._prefixes.close()

    def check(self) -> None:
        """Hold the books against each other; for tests. Raises AssertionError."""
        rows = [row for row in self.rows if row.cache is not None]
        for row in rows:
            held = row.cache.tokens
            _claim(held == row.tokens[: len(held)], "a cache holds tokens of another sequence")
        ended = [row for row in self.rows if row.generation.ended]
        _claim(not ended and len(self.rows) <= self._batch_limit, "a place is not given back")
        caches = [row.cache for row in rows] + self._prefixes.caches
        _claim(len({id(cache) for cache in caches}) == len(caches), "a cache has two owners")
        pages = {page for cache in caches for page in getattr(cache, "pages", ())}
        used = self._decoder.total_pages - self._decoder.free_pages
        counted = all(hasattr(cache, "pages") for cache in caches)
        _claim(not counted or used == len(pages), f"{used} pages are taken, {len(pages)} are used")
        check = getattr(self._decoder, "check", None)
        if check is not None:
            check(caches)

    def _end_unwanted(self) -> None:
        now_s = self._clock()
        for row in list(self.rows):
            if row.generation.cancelled:
                self._end(row, "cancelled")
            elif _is_late(row.generation, now_s):
                self._end(row, "deadline")
        if now_s >= self._expiry_s:
            self._expiry_s = now_s + EXPIRY_INTERVAL_S
            for lane, generation in self._queue.find(lambda each: _is_late(each, now_s)):
                if self._queue.remove(generation, lane=lane):
                    generation.end_unstarted("deadline")

    def _admit(self) -> None:
        for row in list(self.rows):
            if row.cache is None and not self._start(row):
                return
        while len(self.rows) < self._batch_limit:
            generation = self._queue.take(ready=_is_ready)
            if generation is None:
                return
            row = Sequence(
                generation,
                tokenizer=self._tokenizer,
                vocab_size=self._decoder.vocab_size,
                recurrent=self._decoder.recurrent,
            )
            self.rows.append(row)
            if not self._start(row):
                return

    def _start(self, row: Sequence) -> bool:
        """Give `row` its cache; False when it has to wait for pages. One that fails has ended."""
        holders = sum(each.cache is not None for each in self.rows)
        try:
            return self._memory.start(row, spare_pages=holders, now_s=self._clock())
        except Exception as error:
            self._fail(row, error)
            return True

    def _plan(self) -> Planned:
        rows = [row for row in self.rows if row.cache is not None]
        suspects = [row for row in rows if row.suspect_tokens]
        rows = suspects[:1] or rows
        decoding = any(row.lag == 1 for row in rows)
        shares = share_tokens(
            rows,
            step_tokens=self._step_tokens,
            prefill_tokens=self.pace.prefill_tokens(decoding=decoding),
        )
        planned: Planned = []
        for row, share in zip(rows, shares, strict=True):
            # An older row may have taken the cache of this one.
            if share and row.cache is not None:
                part = row.cut(share)
                if self._make_room(row, row.cache.length + len(part.tokens)):
                    planned.append((row, part))
        return planned

    def _make_room(self, row: Sequence, tokens: int) -> bool:
        while not self._memory.grow(row, tokens):
            holders = [each for each in self.rows if each.cache is not None]
            if holders == [row]:
                self._fail(row, EngineError(_NO_ROOM))
                return False
            self._memory.drop(holders[-1])
            if holders[-1] is row:
                return False
        return True

    def _compute(self, planned: Planned) -> None:
        starts = [part.cache.length for _, part in planned]
        begun_s = self._clock()
        try:
            logits = self._decoder.step([part for _, part in planned])
        except Exception as error:
            self._take_apart(planned, starts=starts, error=error)
            return
        tokens = sum(len(part.tokens) for _, part in planned)
        self.pace.count_step(tokens=tokens, elapsed_s=self._clock() - begun_s)
        for (row, part), found in zip(planned, logits, strict=True):
            try:
                self._advance(row, part, found)
            except Exception as error:
                self._fail(row, error)

    def _take_apart(self, planned: Planned, *, starts: list[int], error: Exception) -> None:
        if len(planned) == 1:
            self._fail(planned[0][0], error)
            return
        log.warning("a step of %d answers failed; each goes on alone", len(planned), exc_info=error)
        for (row, part), start in zip(planned, starts, strict=True):
            row.suspect_tokens = start + len(part.tokens)
            try:
                self._memory.rewind(row, start)
            except Exception as fault:
                self._fail(row, fault)

    def _advance(self, row: Sequence, part: Part, logits: NDArray[np.float32]) -> None:
        if row.cache.length >= row.suspect_tokens:
            row.suspect_tokens = 0
        if row.ends_turn:
            self._decoder.snapshot(row.cache)
        if row.generation.cancelled:
            self._end(row, "cancelled")
            return
        if not part.wanted:
            return
        if not row.generation.prompt_read:
            if row.request.shared:
                self._memory.share(row, now_s=self._clock())
            row.generation.prompt_read = True
        piece = row.draw(logits[0])
        if piece.finish is not None:
            self._leave(row)
            row.finish(piece)

    def _end(self, row: Sequence, reason: FinishReason) -> None:
        self._leave(row)
        row.stop(reason)

    def _leave(self, row: Sequence) -> None:
        self.rows.remove(row)
        now_s = self._clock()
        self._memory.finish(row, now_s=now_s)
        self.pace.count_answer(now_s, waiting=len(self._queue))

    def _fail(self, row: Sequence, error: Exception) -> None:
        if row in self.rows:
            self.rows.remove(row)
        self._memory.drop(row)
        if not isinstance(error, FluvialError):
            log.error("an answer failed in the decoder", exc_info=error)
            failure = EngineError(
                f"the model failed during this answer ({type(error).__name__}: {error}); "
                "other answers go on"
            )
            failure.__cause__ = error
            error = failure
        row.generation.fail(error)


def _claim(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def _is_ready(generation: Generation) -> bool:
    return generation.ready


def _is_late(generation: Generation, now_s: float) -> bool:
    deadline_s = generation.request.deadline_s
    return deadline_s is not None and now_s >= deadline_s
