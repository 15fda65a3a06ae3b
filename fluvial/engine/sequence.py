"""One sequence in the batch: the tokens of its prompt, then its answer, drawn token by token."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fluvial.engine.answer import Answer, Piece
from fluvial.engine.generation import Generation
from fluvial.engine.protocol import Part
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, FinishReason, Usage

if TYPE_CHECKING:
    from fluvial.model.tokenizer import Tokenizer


class Sequence:
    """What one answer is made of, beside its generation: tokens, adapter versions, draws.

    The whole prompt is read under one adapter version; from then on the newest version is asked for
    before every token. `cache` may be taken away at any time (then it is None) and computed again
    from `tokens`, each under the version that it was computed under first: nothing changes.
    """

    def __init__(
        self, generation: Generation, *, tokenizer: "Tokenizer", vocab_size: int, recurrent: bool
    ) -> None:
        """Prepare an answer. `recurrent`: whether states are to be kept where a turn ends."""
        self.generation = generation
        self.request = generation.request
        self.tokens = list(self.request.prompt)
        self.cache: Any = None
        self.cached_tokens: int | None = None
        self.suspect_tokens = 0
        self.may_keep = True
        # Some models have more logits than tokens, to fill a round number.
        self._vocab_size = min(vocab_size, tokenizer.vocab_size)
        self._turn_tokens = len(self.tokens) - 1 if recurrent else 0
        self._versions: list[tuple[int, Adapter | None]] = []
        self._answer = Answer(
            self.request.sampling,
            tokenizer=tokenizer,
            vocab_size=self._vocab_size,
            prompt=self.request.prompt,
            limit_tokens=self.request.limit_tokens,
            grammar=self.request.grammar,
            choice=self.request.choice,
        )

    @property
    def lane(self) -> str:
        """The key of fairness."""
        return self.request.lane

    @property
    def lag(self) -> int:
        """How many tokens are known but not computed; 1 while it decodes."""
        return len(self.tokens) - self.cache.length

    @property
    def key(self) -> str | None:
        """The adapter key under which the prompt is read."""
        return _name(self._versions[0][1])

    @property
    def pure_tokens(self) -> int:
        """How many of the tokens, from the first, go under `key`."""
        return self._versions[1][0] if len(self._versions) > 1 else len(self.tokens)

    @property
    def versions(self) -> list[tuple[int, str | None]]:
        """Where each adapter key begins."""
        return [(start, _name(adapter)) for start, adapter in self._versions]

    @property
    def ends_turn(self) -> bool:
        """Whether the cache stands where a recurrent state should be kept: before the last token
        of the prompt, which always has to be computed for its logits."""
        return 0 < self._turn_tokens == self.cache.length

    def ask_version(self) -> None:
        """Ask which adapter the prompt is to be read under, unless it has begun."""
        if self.cached_tokens is None:
            self._versions = [(0, self.request.adapter())]

    def cut(self, limit_tokens: int) -> Part:
        """Return the next tokens to compute, 1 to `limit_tokens`, all under one adapter."""
        start = self.cache.length
        end = min(len(self.tokens), start + limit_tokens)
        adapter = None
        for begin, version in self._versions:
            if begin <= start:
                adapter = version
            else:
                end = min(end, begin)
        if start < self._turn_tokens:
            end = min(end, self._turn_tokens)
        wanted = (end - start - 1,) if end == len(self.tokens) else ()
        return Part(self.cache, self.tokens[start:end], adapter, wanted)

    def draw(self, logits: NDArray[np.float32]) -> Piece:
        """Draw the next token from `logits` (float32 [V]).

        A piece with `finish` is for `finish`; any other has been passed on. Raises what the sampler
        and the adapter's source raise.
        """
        piece = self._answer.take(logits[: self._vocab_size])
        if piece.finish is None and piece.token is not None:
            self.tokens.append(piece.token)
            if piece.text or piece.logprobs:
                self.generation.emit(Delta(text=piece.text, logprobs=piece.logprobs))
            self._take_version()
        return piece

    def stop(self, reason: FinishReason) -> None:
        """End the generation before its time, with what was held back."""
        self.finish(self._answer.end(reason))

    def finish(self, piece: Piece) -> None:
        """End the generation with its last piece."""
        usage = Usage(
            prompt_tokens=len(self.request.prompt),
            completion_tokens=self._answer.completion_tokens,
            cached_tokens=self.cached_tokens or 0,
        )
        delta = Delta(text=piece.text, finish=piece.finish, usage=usage, logprobs=piece.logprobs)
        self.generation.emit(delta)

    def _take_version(self) -> None:
        """Let the newest version take over from the token just drawn."""
        adapter = self.request.adapter()
        if _name(adapter) != _name(self._versions[-1][1]):
            self._versions.append((len(self.tokens) - 1, adapter))


def _name(adapter: Adapter | None) -> str | None:
    return None if adapter is None else adapter.key
