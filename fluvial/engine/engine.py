"""A checkpoint that runs: a fair queue in front of one thread that owns the decoder."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from fluvial.engine.batch import Batch
from fluvial.engine.generation import Generation, Request, use_base
from fluvial.engine.grammar import GrammarCompiler, GrammarState
from fluvial.engine.limit import validate
from fluvial.engine.prefix import PrefixStore
from fluvial.engine.protocol import Decoder
from fluvial.engine.scheduler import FairQueue
from fluvial.engine.spill import Spill
from fluvial.errors import ContextLengthError, EngineError, InputError
from fluvial.model.adapter import Adapter
from fluvial.types import Message, Sampling, Tool

if TYPE_CHECKING:
    from fluvial.model.template import Template
    from fluvial.model.tokenizer import Tokenizer

__all__ = ["Engine", "use_base"]

log = logging.getLogger(__name__)

MAX_CHOICES = 128
"""Most answers to one prompt that may be asked for at once."""


class Engine:
    """Answers messages with one model, many sequences at once, in fair order over lanes.

    Invariants: only the engine's own thread touches the decoder; a request that was accepted ends
    exactly once, with a finish or an error; a failing answer doesn't stop the others; what an
    answer says doesn't depend on what runs beside it. Thread-safe. Close it, or use it in a `with`
    block.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        name: str,
        tokenizer: "Tokenizer",
        template: "Template",
        queue_limit: int = 64,
        batch_limit: int = 8,
        step_tokens: int = 256,
        answer_tokens: int = 1024,
        spill: Spill | None = None,
        idle_s: float | None = None,
        grammars: GrammarCompiler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the thread.

        `queue_limit`: answers that may wait. `batch_limit`: answers that are written at once.
        `step_tokens`: tokens computed in one step, a cancel waits for one. `answer_tokens`: the
        longest answer to a request that names no `max_tokens`. `spill`: where caches go that have
        been unused for `idle_s` or had to make room; the engine closes it. `grammars`: the
        compiler of this tokenizer, where it was prepared before.
        """
        self.name = name
        capacity = decoder.total_pages * decoder.page_tokens
        self.context_tokens = min(decoder.context_tokens, capacity)
        self.tokenizer = tokenizer
        self.template = template
        self._grammars = grammars or GrammarCompiler(tokenizer)
        self._vocab_size = min(decoder.vocab_size, tokenizer.vocab_size)
        self._decoder = decoder
        self._answer_tokens = answer_tokens
        self._spill = spill
        self._clock = clock
        self._queue: FairQueue[Generation] = FairQueue(queue_limit)
        self._batch = Batch(
            decoder,
            queue=self._queue,
            tokenizer=tokenizer,
            prefixes=PrefixStore(decoder, spill=spill, idle_s=idle_s),
            batch_limit=batch_limit,
            step_tokens=step_tokens,
            clock=clock,
        )
        self._orders: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that wait for their turn now."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Answers that are being written now."""
        return len(self._batch.rows)

    def count(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Return how many tokens `messages` take, with `tools` and the template's own."""
        return len(self.template.encode(messages, tokenizer=self.tokenizer, tools=tools))

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        tools: Sequence[Tool] = (),
        adapter: Callable[[], Adapter | None] = use_base,
        owner: str | None = None,
        deadline_s: float | None = None,
    ) -> Generation:
        """Queue an answer to `messages` and return it at once.

        `tools` are told to the model by the template. `lane` is the key of fairness, and of
        `forget`: a session, or a client. Caches are shared
        within `owner` (None: the lane alone), never beyond. `adapter` is asked on the engine's
        thread, before the prompt and before every token after, so that a new version takes over in
        the middle of an answer. After `deadline_s` seconds from now the answer ends, with finish
        `deadline`, however far it is.

        Raises InputError for a `sampling` out of range or a grammar that can't be honoured,
        ContextLengthError when prompt and `max_tokens` don't fit, BusyError when the queue is full.
        """
        return self.generate_many(
            messages,
            n=1,
            sampling=sampling,
            lane=lane,
            tools=tools,
            adapter=adapter,
            owner=owner,
            deadline_s=deadline_s,
        )[0]

    def generate_many(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: Sampling,
        lane: str,
        tools: Sequence[Tool] = (),
        adapter: Callable[[], Adapter | None] = use_base,
        owner: str | None = None,
        deadline_s: float | None = None,
    ) -> list[Generation]:
        """Queue `n` answers to the same messages; the prompt is read once.

        Each draws on its own, and the first one as it would alone. The rest is as in `generate`;
        when the queue has no room for all, none is queued.
        """
        validate(sampling, vocab_size=self._vocab_size)
        if not 1 <= n <= MAX_CHOICES:
            raise InputError(f"n must be from 1 to {MAX_CHOICES}, not {n}", param="n")
        if deadline_s is not None and not 0 < deadline_s < float("inf"):
            raise InputError(
                f"the deadline must be more than 0 seconds away, not {deadline_s!r}",
                param="deadline_s",
            )
        prompt = self.template.encode(messages, tokenizer=self.tokenizer, tools=tools)
        first = Request(
            prompt=prompt,
            sampling=sampling,
            limit_tokens=self._limit(len(prompt), sampling.max_tokens),
            lane=lane,
            owner=lane if owner is None else owner,
            adapter=adapter,
            deadline_s=None if deadline_s is None else self._clock() + deadline_s,
            grammar=self._open_grammar(sampling),
            shared=n > 1,
        )
        generations = [Generation(first, on_cancel=self._batch.withdraw)]
        for choice in range(1, n):
            request = replace(
                first,
                grammar=self._open_grammar(sampling),
                choice=choice,
                first=generations[0],
                shared=False,
            )
            generations.append(Generation(request, on_cancel=self._batch.withdraw))
        self._queue.put(*generations, lane=lane, retry_after_s=self._batch.pace.retry_after_s)
        self._wake.set()
        return generations

    def forget(self, lane: str) -> None:
        """Drop what the caches keep of `lane`, on disk too, as when its session is deleted.

        Returns once it is done; of an answer under way nothing will be kept. Don't call it from
        an `adapter` source.
        """
        self._order(lambda: self._batch.forget(lane))

    def forget_adapters(self, keys: Collection[str], *, owner: str) -> None:
        """Drop the adapters with these keys, and what was computed for `owner` by them.

        On disk too, as when their versions are deleted. Otherwise as in `forget`.
        """
        self._order(lambda: self._batch.forget_adapters(keys, owner=owner))

    def check(self) -> None:
        """Hold the engine's books against each other; for tests. Raises AssertionError."""
        self._order(self._batch.check)

    def close(self) -> None:
        """End all answers as cancelled and the thread; returns once it has ended. Idempotent."""
        self._closing = True
        for generation in self._queue.close():
            generation.end_unstarted("cancelled")
        self._wake.set()
        self._thread.join()
        if self._spill is not None:
            self._spill.close()
        # Some decoders have a process of their own.
        getattr(self._decoder, "close", lambda: None)()
        self.template.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_grammar(self, sampling: Sampling) -> GrammarState | None:
        return None if sampling.grammar is None else self._grammars.open(sampling.grammar)

    def _limit(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """Return how many tokens the answer may have; raise ContextLengthError if it can't fit."""
        room = self.context_tokens - prompt_tokens
        if prompt_tokens == 0:
            raise InputError(
                "messages hold no tokens: there is nothing to answer", param="messages"
            )
        if room < 1:
            raise ContextLengthError(
                f"your messages are {prompt_tokens} tokens; this model takes at most "
                f"{self.context_tokens - 1} and at least 1 for the answer; shorten them by "
                f"{1 - room} tokens or more",
                param="messages",
            )
        if max_tokens is not None and max_tokens > room:
            raise ContextLengthError(
                f"your messages are {prompt_tokens} tokens and max_tokens asks for {max_tokens} "
                f"more; this model takes {self.context_tokens} in all, so max_tokens can be at "
                f"most {room} here",
                param="max_tokens",
            )
        return min(room, self._answer_tokens) if max_tokens is None else max_tokens

    def _order(self, work: Callable[[], None]) -> None:
        """Have the engine's thread do `work` between two steps, and wait for it."""
        done: Future[None] = Future()
        self._orders.append((work, done))
        self._wake.set()
        if not self._thread.is_alive():
            self._obey()
        done.result()

    def _obey(self) -> None:
        while self._orders:
            # Two threads come here only once the engine's own has ended.
            with contextlib.suppress(IndexError):
                work, done = self._orders.popleft()
                try:
                    work()
                except BaseException as error:
                    done.set_exception(error)
                else:
                    done.set_result(None)

    def _work(self) -> None:
        while not self._closing:
            self._wake.clear()
            self._obey()
            if not self._step():
                self._wake.wait(self._batch.idle_s())
        try:
            self._batch.close()
        finally:
            self._obey()

    def _step(self) -> bool:
        try:
            return self._batch.step()
        except Exception as error:
            log.exception("a step of the engine failed")
            failure = EngineError(f"the engine failed ({type(error).__name__}: {error})")
            failure.__cause__ = error
            self._batch.fail_all(failure)
            return True
