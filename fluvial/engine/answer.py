"""One answer, from logits to text: draws, whole characters, stops, logprobs, the reason to end."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.sampler import Draw, Sampler
from fluvial.engine.stop import StopFilter
from fluvial.engine.text import TextDecoder
from fluvial.types import FinishReason, Sampling, TokenLogprob

if TYPE_CHECKING:
    from fluvial.engine.grammar import GrammarState
    from fluvial.model.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What one token adds to an answer.

    `token` is to be read next, unless `finish` is set. `text` and `logprobs` may be empty.
    """

    token: int | None
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None


@dataclass(frozen=True)
class _Told:
    """A logprob that waits for its text: it covers the characters from `start` to `end`."""

    logprob: TokenLogprob
    start: int
    end: int


class Answer:
    """Makes an answer of logits, token by token. For one thread at a time.

    Invariants: the texts of all pieces, joined, are the whole answer, cut before the first stop
    string; a piece with `finish` is the last. Logprobs come with the text in which their token
    ends, those of tokens behind a cut never.
    """

    def __init__(
        self,
        sampling: Sampling,
        *,
        tokenizer: "Tokenizer",
        vocab_size: int,
        prompt: Sequence[int],
        limit_tokens: int,
        grammar: "GrammarState | None" = None,
        choice: int = 0,
    ) -> None:
        """Prepare an answer of at most `limit_tokens` (>= 1) to `prompt`.

        `sampling` has passed `validate`; `grammar` is this answer's own state; `choice` numbers the
        answers to one request.
        """
        self._tokenizer = tokenizer
        self._limit_tokens = limit_tokens
        self._grammar = grammar
        self._sampler = Sampler(sampling, vocab_size, prompt=prompt, grammar=grammar, choice=choice)
        self._ends = frozenset(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            self._ends |= tokenizer.eos_ids
        self._text = TextDecoder()
        self._stops = StopFilter(sampling.stop)
        self._tells = sampling.logprobs is not None
        self._names = {i: name for name, i in tokenizer.marks.items()} if self._tells else {}
        self._waiting: deque[_Told] = deque()
        self._decoded_chars = 0
        self._shown_chars = 0
        self.completion_tokens = 0

    def take(self, logits: NDArray[np.float32]) -> Piece:
        """Draw a token from `logits` (float32 [vocab]) and return what it adds.

        A token that ends the answer is not part of it and not counted.
        Raises EngineError (see `Sampler.draw`).
        """
        draw = self._sampler.draw(logits)
        if draw.token in self._ends:
            return self._end("stop", token=draw.token)
        self.completion_tokens += 1
        text = self._stops.push(self._decode(draw))
        if self._stops.stopped or (self._grammar is not None and self._grammar.finished):
            return self._end("stop", token=draw.token, text=text)
        if self.completion_tokens == self._limit_tokens:
            return self._end("length", token=draw.token, text=text)
        return Piece(token=draw.token, text=text, logprobs=self._release(text))

    def end(self, reason: FinishReason) -> Piece:
        """End the answer before its time, as for a cancel: return what was held back."""
        return self._end(reason, token=None)

    def _decode(self, draw: Draw) -> str:
        data = self._tokenizer.token_bytes(draw.token)
        start = self._decoded_chars
        text = self._text.push(data)
        self._decoded_chars += len(text)
        if self._tells:
            # A character that is not whole yet will be one more.
            end = self._decoded_chars + self._text.pending
            self._waiting.append(_Told(self._tell(draw), start, end))
        return text

    def _end(self, reason: FinishReason, *, token: int | None, text: str = "") -> Piece:
        """Let out what was held back; a stop string may turn out to be whole only now."""
        if not self._stops.stopped:
            text += self._stops.push(self._text.finish()) + self._stops.finish()
            if self._stops.stopped and reason == "length":
                reason = "stop"
        logprobs = self._release(text)
        if self._stops.stopped:
            cut = [told.logprob for told in self._waiting if told.start < self._shown_chars]
        else:
            cut = [told.logprob for told in self._waiting]
        self._waiting.clear()
        return Piece(token=token, text=text, logprobs=(*logprobs, *cut), finish=reason)

    def _release(self, text: str) -> tuple[TokenLogprob, ...]:
        self._shown_chars += len(text)
        released: list[TokenLogprob] = []
        while self._waiting and self._waiting[0].end <= self._shown_chars:
            released.append(self._waiting.popleft().logprob)
        return tuple(released)

    def _tell(self, draw: Draw) -> TokenLogprob:
        top = tuple(self._spell(token, logprob) for token, logprob in draw.top)
        return self._spell(draw.token, draw.logprob, top=top)

    def _spell(
        self, token: int, logprob: float, *, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        data = self._tokenizer.token_bytes(token)
        if not data:
            name = self._names.get(token, "")
            return TokenLogprob(text=name, bytes=None, logprob=logprob, top=top)
        text = data.decode("utf-8", "replace")
        return TokenLogprob(text=text, bytes=data, logprob=logprob, top=top)
