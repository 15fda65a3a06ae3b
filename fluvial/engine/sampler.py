"""Draws of the next token from a model's logits."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fluvial.engine import warper
from fluvial.errors import EngineError
from fluvial.types import Sampling

if TYPE_CHECKING:
    from fluvial.engine.grammar import GrammarState

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_FLOAT32_MAX = np.finfo(np.float32).max


@dataclass(frozen=True)
class Draw:
    """A token, and where they were asked for the logprobs: its own, and the best (id, logprob)."""

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Draws the tokens of one answer. The same seed and the same logits give the same tokens.

    The order: 1. logprobs are taken, of the model's own distribution at temperature 1. 2. The
    repetition penalty, over prompt and answer: logits over 0 are divided by it, others multiplied
    (Keskar et al. 2019, section 4.1). 3. Frequency penalty for each time that a token is in the
    answer, presence penalty once. 4. Logit bias. 5. The grammar leaves out what can't follow.
    6. At temperature 0 the most probable token is taken. 7. Temperature, then `top_k`, `top_p`,
    `min_p` and `typical_p` in turn, each on what the one before left (see warper.py). 8. One number
    of PCG64 is spent on a token.

    Among equals the lower id goes first. Nothing depends on other sequences.
    """

    def __init__(
        self,
        sampling: Sampling,
        vocab_size: int,
        *,
        prompt: Sequence[int] = (),
        grammar: "GrammarState | None" = None,
        choice: int = 0,
    ) -> None:
        """Prepare for logits of `vocab_size` tokens. `sampling` has passed `validate`.

        `prompt` counts for the repetition penalty. `grammar` is this answer's own; it is moved on
        with each token. `choice` numbers the answers to one request: each has its own randomness.
        """
        self._random = np.random.Generator(_make_bits(sampling.seed, choice=choice))
        self._sampling = sampling
        self._vocab_size = vocab_size
        self._grammar = grammar
        self._answer: Counter[int] = Counter()
        self._seen: set[int] = set(prompt) if sampling.repetition_penalty != 1 else set()
        self._bias_ids = np.array([i for i, _ in sampling.logit_bias], np.intp)
        self._biases = np.array([bias for _, bias in sampling.logit_bias], np.float32)
        self._changes = (
            sampling.repetition_penalty != 1
            or sampling.frequency_penalty != 0
            or sampling.presence_penalty != 0
            or len(self._biases) > 0
        )

    def draw(self, logits: Floats) -> Draw:
        """Return the next token for `logits` (float32 [vocab], not changed).

        Raises EngineError: `bad_logits` when they have another shape or aren't all finite,
        `grammar_too_complex` when the grammar came to its limits.
        """
        self._check(logits)
        token = self._choose(self._change(logits) if self._changes else logits)
        self._count(token)
        if self._sampling.logprobs is None:
            return Draw(token)
        return _measure(logits, token=token, alternatives=self._sampling.logprobs)

    def _check(self, logits: Floats) -> None:
        if logits.shape != (self._vocab_size,):
            raise EngineError(
                f"the decoder gave logits of shape {logits.shape}; expected ({self._vocab_size},)",
                code="bad_logits",
            )
        # A NaN anywhere is the maximum.
        if not (math.isfinite(logits.max()) and math.isfinite(logits.min())):
            raise EngineError(
                "the model's logits aren't all finite numbers: its file or what the session "
                "learned is damaged",
                code="bad_logits",
            )

    def _change(self, logits: Floats) -> Floats:
        """Return penalised and biased logits: a copy."""
        logits = logits.copy()
        sampling = self._sampling
        if sampling.repetition_penalty != 1 and self._seen:
            ids = np.fromiter(self._seen, np.intp, len(self._seen))
            found, penalty = logits[ids], np.float32(sampling.repetition_penalty)
            with np.errstate(over="ignore"):
                changed = np.where(found < 0, found * penalty, found / penalty)
            logits[ids] = np.clip(changed, -_FLOAT32_MAX, _FLOAT32_MAX)
        if self._answer and (sampling.frequency_penalty or sampling.presence_penalty):
            ids = np.fromiter(self._answer.keys(), np.intp, len(self._answer))
            counts = np.fromiter(self._answer.values(), np.float32, len(self._answer))
            logits[ids] -= counts * np.float32(sampling.frequency_penalty)
            logits[ids] -= np.float32(sampling.presence_penalty)
        logits[self._bias_ids] += self._biases
        return logits

    def _choose(self, logits: Floats) -> int:
        ids: Ids | None = None
        if self._grammar is not None:
            ids = np.flatnonzero(self._grammar.allow()[: self._vocab_size])
            if len(ids) == 0:  # only ids without logits: a tokenizer larger than its model
                raise EngineError("no token can follow the grammar", code="grammar_too_complex")
            logits = logits[ids]
        if self._sampling.temperature == 0:
            at = int(logits.argmax())
        else:
            kept = warper.keep(logits, sampling=self._sampling)
            if kept is not None:
                logits = logits[kept]
            weights = warper.weigh(logits, temperature=self._sampling.temperature)
            at = warper.pick(weights, at=self._random.random())
            at = at if kept is None else int(kept[at])
        return at if ids is None else int(ids[at])

    def _count(self, token: int) -> None:
        if self._grammar is not None:
            self._grammar.advance(token)
        if self._changes:
            self._answer[token] += 1
            self._seen.add(token)


def _make_bits(seed: int | None, *, choice: int) -> np.random.PCG64:
    if seed is None:
        return np.random.PCG64()
    return np.random.PCG64([seed % 2**64, choice] if choice else seed % 2**64)


def _measure(logits: Floats, *, token: int, alternatives: int) -> Draw:
    """Tell the logprobs of `token` and of the most probable tokens."""
    peak = float(logits.max())
    with np.errstate(over="ignore", under="ignore"):
        total = np.exp(logits - np.float32(peak)).sum(dtype=np.float64)
    base = peak + math.log(total)
    best = warper.rank_highest(logits, count=alternatives)
    top = tuple((int(i), float(logits[i]) - base) for i in best)
    return Draw(token, float(logits[token]) - base, top)
