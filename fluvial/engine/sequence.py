"""One sequence in the engine: its prompt is read, then its answer is drawn token by token."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.generation import Generation
from fluvial.engine.prefix import PrefixStore
from fluvial.engine.sampler import Sampler
from fluvial.engine.stop import StopFilter
from fluvial.engine.text import TextDecoder
from fluvial.model.adapter import Adapter
from fluvial.types import FinishReason, Usage

if TYPE_CHECKING:
    from fluvial.engine.decoder import Decoder
    from fluvial.model.tokenizer import Tokenizer


class Sequence:
    """Runs one answer from prompt to finish on the engine's thread.

    The whole prompt is read under one adapter version; from then on the newest version is asked for
    before every token. A cancel is honoured after the decoder step under way.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        decoder: "Decoder",
        tokenizer: "Tokenizer",
        prefixes: PrefixStore,
        prefill_tokens: int,
    ) -> None:
        """Prepare an answer; the prompt is read in steps of `prefill_tokens`."""
        self._generation = generation
        self._request = generation.request
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._prefixes = prefixes
        self._prefill_tokens = prefill_tokens
        # Some models have more logits than tokens, to fill a round number.
        self._vocab_size = min(decoder.vocab_size, tokenizer.vocab_size)
        self._sampler = Sampler(self._request.sampling, self._vocab_size)
        self._text = TextDecoder()
        self._stops = StopFilter(self._request.sampling.stop)
        self._completion_tokens = 0

    def run(self) -> None:
        """Generate until the end, a stop string, the limit or a cancel, and finish the generation.

        Raises what the decoder and the adapter's source raise; the cache in use is then dropped.
        """
        request = self._request
        adapter = request.adapter()
        self._key = _name(adapter)
        self._mixed = False
        needed_tokens = len(request.prompt) + request.limit_tokens
        slot = self._prefixes.take(
            request.prompt, lane=request.lane, key=self._key, needed_tokens=needed_tokens
        )
        self._cache = slot.cache
        cached_tokens = slot.cache.length
        reason = self._generate(self._prefill(adapter))
        if not self._mixed:
            self._prefixes.give(slot)
        self._finish(reason, cached_tokens=cached_tokens)

    def _prefill(self, adapter: Adapter | None) -> NDArray[np.float32] | None:
        """Read what the cache lacks of the prompt; return the last logits, None if cancelled."""
        prompt, logits = self._request.prompt, None
        while self._cache.length < len(prompt):
            if self._generation.cancelled:
                return None
            start = self._cache.length
            end = start + self._prefill_tokens
            # One token left alone would be computed differently (see prefix.py): it goes along.
            end += end == len(prompt) - 1
            logits = self._decoder.forward(prompt[start:end], cache=self._cache, adapter=adapter)
        return logits

    def _generate(self, logits: NDArray[np.float32] | None) -> FinishReason:
        while logits is not None and not self._generation.cancelled:
            token = self._sampler.draw(logits[: self._vocab_size])
            if token in self._tokenizer.eos_ids:
                return "stop"
            self._emit(token)
            if self._stops.stopped:
                return "stop"
            if self._completion_tokens == self._request.limit_tokens:
                return "length"
            logits = self._read(token)
        return "cancelled"

    def _emit(self, token: int) -> None:
        self._completion_tokens += 1
        text = self._stops.push(self._text.push(self._tokenizer.token_bytes(token)))
        if text:
            self._generation.emit(text)

    def _read(self, token: int) -> NDArray[np.float32]:
        """Read a drawn token under the newest version."""
        adapter = self._request.adapter()
        self._mixed = self._mixed or _name(adapter) != self._key
        return self._decoder.forward([token], cache=self._cache, adapter=adapter)

    def _finish(self, reason: FinishReason, *, cached_tokens: int) -> None:
        was_stopped = self._stops.stopped
        tail = self._stops.push(self._text.finish()) + self._stops.finish()
        if self._stops.stopped and not was_stopped and reason == "length":
            reason = "stop"
        usage = Usage(
            prompt_tokens=len(self._request.prompt),
            completion_tokens=self._completion_tokens,
            cached_tokens=cached_tokens,
        )
        self._generation.finish(reason, text=tail, usage=usage)


def _name(adapter: Adapter | None) -> str | None:
    return None if adapter is None else adapter.key
