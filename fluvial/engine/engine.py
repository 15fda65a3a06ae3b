"""A checkpoint that runs: a fair queue in front of one thread that owns the decoder."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from fluvial.engine import sampler
from fluvial.engine.generation import Generation, Request
from fluvial.engine.prefix import PrefixStore
from fluvial.engine.scheduler import FairQueue
from fluvial.engine.sequence import Sequence as RunningSequence
from fluvial.errors import ContextLengthError, EngineError, FluvialError, InputError
from fluvial.model.adapter import Adapter
from fluvial.types import Message, Sampling, Usage

if TYPE_CHECKING:
    from fluvial.engine.decoder import Decoder
    from fluvial.model.template import Template
    from fluvial.model.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CACHED_CONTEXTS = 3
"""Full contexts that the caches may take: one in use, the others kept for the next turn."""


def use_base() -> Adapter | None:
    """Return None: no adapter, exactly the base."""
    return None


class Engine:
    """Answers messages with one model, one sequence at a time, in fair order over lanes.

    Invariants: only the engine's own thread touches the decoder; a request that was accepted ends
    exactly once, with a finish or an error; a failing answer doesn't stop the ones behind it.
    Thread-safe. Close it, or use it in a `with` block.
    """

    def __init__(
        self,
        decoder: "Decoder",
        *,
        name: str,
        tokenizer: "Tokenizer",
        template: "Template",
        queue_limit: int = 64,
        prefill_tokens: int = 64,
        answer_tokens: int = 1024,
        cache_tokens: int | None = None,
    ) -> None:
        """Start the thread.

        `queue_limit`: answers that may wait. `answer_tokens`: the longest answer to a request that
        names no `max_tokens`. `prefill_tokens`: tokens of a prompt read in one step;
        a cancel waits for one. `cache_tokens`: capacity of all caches together (see prefix.py).
        """
        self.name = name
        self.context_tokens = decoder.context_tokens
        self.tokenizer = tokenizer
        self.template = template
        self._decoder = decoder
        self._prefill_tokens = prefill_tokens
        self._answer_tokens = answer_tokens
        budget = CACHED_CONTEXTS * decoder.context_tokens if cache_tokens is None else cache_tokens
        self._prefixes = PrefixStore(decoder, budget_tokens=budget)
        self._queue: FairQueue[Generation] = FairQueue(queue_limit)
        self._lock = threading.Lock()
        self._running: Generation | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"engine {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Answers that wait for their turn now."""
        return len(self._queue)

    def count(self, messages: Sequence[Message]) -> int:
        """Return how many tokens `messages` take, with the template's own."""
        return len(self.template.encode(messages, tokenizer=self.tokenizer))

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        adapter: Callable[[], Adapter | None] = use_base,
    ) -> Generation:
        """Queue an answer to `messages` and return it at once.

        `lane` is the key of fairness and of cache reuse: a session, or a client. `adapter` is asked
        on the engine's thread, before the prompt and before every token after, so that a new
        version takes over in the middle of an answer.

        Raises InputError for a `sampling` out of range, ContextLengthError when prompt and
        `max_tokens` don't fit, BusyError when the queue is full.
        """
        sampler.validate(sampling)
        prompt = self.template.encode(messages, tokenizer=self.tokenizer)
        request = Request(
            prompt=prompt,
            sampling=sampling,
            limit_tokens=self._limit(len(prompt), sampling.max_tokens),
            lane=lane,
            adapter=adapter,
        )
        generation = Generation(request, on_cancel=self._withdraw)
        self._queue.put(generation, lane=lane)
        return generation

    def forget(self, lane: str) -> None:
        """Drop what the caches keep of `lane`, as when its session is deleted.

        An answer under way gives its cache back when it ends: wait for that first.
        """
        self._prefixes.forget(lane)

    def close(self) -> None:
        """End all answers as cancelled and the thread; returns once it has ended. Idempotent."""
        with self._lock:
            self._closing = True
            running = self._running
        for generation in self._queue.close():
            _end_unstarted(generation)
        if running is not None:
            running.cancel()
        self._thread.join()
        self.template.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

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

    def _withdraw(self, generation: Generation) -> None:
        """End a cancelled answer here if it still waits; else the thread sees the cancel itself."""
        if self._queue.remove(generation, lane=generation.request.lane):
            _end_unstarted(generation)

    def _work(self) -> None:
        while (generation := self._queue.take()) is not None:
            with self._lock:
                self._running = generation
                closing = self._closing
            if closing:
                generation.cancel()
            self._answer(generation)
            with self._lock:
                self._running = None
            # Nothing of an answer stays reachable from here while the thread waits for the next.
            del generation

    def _answer(self, generation: Generation) -> None:
        try:
            RunningSequence(
                generation,
                decoder=self._decoder,
                tokenizer=self.tokenizer,
                prefixes=self._prefixes,
                prefill_tokens=self._prefill_tokens,
            ).run()
        except FluvialError as error:
            generation.fail(error)
        except Exception as error:
            log.exception("an answer failed in the decoder")
            failure = EngineError(
                f"the model failed during this answer ({type(error).__name__}: {error}); "
                "other answers go on"
            )
            failure.__cause__ = error
            generation.fail(failure)


def _end_unstarted(generation: Generation) -> None:
    usage = Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=0)
    generation.finish("cancelled", usage=usage)
