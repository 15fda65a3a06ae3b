"""Two versions on one text, beside the base: bits per byte, nothing learned."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluvial.adapt.history import History
from fluvial.config import Settings
from fluvial.errors import ConflictError, EngineError, InputError, TooLargeError
from fluvial.model.adapter import Adapter
from fluvial.service.model import Served
from fluvial.service.protocol import Tokenizer
from fluvial.service.version import Versions
from fluvial.types import BASE_VERSION, Session

Score = Callable[[Sequence[int], Adapter | None], Sequence[float]]
"""Scores a text under an adapter, None: the base. Returns nats, one figure for each token id.

The model's first token stands before the text, so that its first token has a loss too.
"""

TOKEN_BYTES = 64
"""Texts with more bytes for each token that may be compared are refused before they are cut."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Bits per byte of a text under the versions numbered `a` and `b`, and under the base."""

    a: int
    b: int
    tokens: int
    bytes: int
    a_bpb: float
    b_bpb: float
    base_bpb: float


class Comparisons:
    """Compares versions. `score` None: this server can't, and says so."""

    def __init__(
        self,
        *,
        settings: Settings,
        served: Served,
        tokenizer: Tokenizer,
        history: History,
        versions: Versions,
        score: Score | None,
    ) -> None:
        self._limit_tokens = settings.compare_tokens
        self._served = served
        self._tokenizer = tokenizer
        self._history = history
        self._versions = versions
        self._score = score

    def compare(self, session: Session, a: str, b: str, *, text: str) -> Comparison:
        """Score a text under two versions, named by their handles, and under the base.

        Raises NotFoundError, InputError for an empty text, TooLargeError over `compare_tokens`.
        """
        self._served.require(session)
        numbers = [self._versions.resolve(session, handle) for handle in (a, b)]
        ids = self._encode(text)
        size_bytes = len(text.encode())
        found: dict[int, float] = {}
        for number in (*numbers, BASE_VERSION):
            if number not in found:
                found[number] = self._measure(session, number, ids) / size_bytes
        return Comparison(
            a=numbers[0],
            b=numbers[1],
            tokens=len(ids),
            bytes=size_bytes,
            a_bpb=found[numbers[0]],
            b_bpb=found[numbers[1]],
            base_bpb=found[BASE_VERSION],
        )

    def _encode(self, text: str) -> list[int]:
        limit_bytes = TOKEN_BYTES * self._limit_tokens
        if len(text.encode()) > limit_bytes:
            raise TooLargeError(f"the text is over {limit_bytes:,} bytes", param="text")
        ids = self._tokenizer.encode(text)
        if not ids:
            raise InputError("the text is empty: there is nothing to compare", param="text")
        if len(ids) > self._limit_tokens:
            raise TooLargeError(
                f"the text has {len(ids):,} tokens; compare on at most {self._limit_tokens:,}",
                param="text",
            )
        return ids

    def _measure(self, session: Session, number: int, ids: Sequence[int]) -> float:
        """Return the bits of a text under one version."""
        if self._score is None:
            raise ConflictError("this server can't score texts", code="scoring_unavailable")
        nats = self._score(ids, self._history.load(session, number))
        if len(nats) != len(ids):
            raise EngineError(f"{len(nats)} losses came back for {len(ids)} tokens")
        return math.fsum(nats) / math.log(2)
