"""The passages of documents that match a question, by BM25.

A passage has about 120 words (or 200 Chinese characters) and begins and ends where sentences do.
The index of a document is built once and kept while it is in use.

Ranking: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009),
section 3.1, with the idf that never goes negative.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from fluvial.retrieve.index import Index, Span, indexed
from fluvial.retrieve.sentence import sentences
from fluvial.retrieve.term import terms

_SATURATION = 1.2
_LENGTH_WEIGHT = 0.75
_WORTH = 0.25
"""A passage that scores less than this part of the best one is not worth its tokens."""
_TRIES = 24
_LEAST_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A piece of a document, as it stands there. `start` is the index of its first character."""

    document: str
    start: int
    text: str


@dataclass(frozen=True)
class _Hit:
    position: int
    text: str
    span: Span


def select(
    question: str,
    *,
    documents: Sequence[tuple[str, str]],
    budget_tokens: int,
    count: Callable[[str], int],
) -> list[Passage]:
    """Pick the passages that match the question best and together fit the budget.

    `documents` are pairs of id and text; a text never changes under its id. `count` tells how many
    tokens a text has. Returns passages in the order of the documents, then of the text; none when
    no term of the question occurs. The same arguments give the same passages.
    """
    wanted = Counter(terms(question))
    if not wanted or budget_tokens < _LEAST_TOKENS:
        return []
    hits = _ranked(wanted, documents=documents)
    chosen = _fill(hits, wanted=wanted, budget_tokens=budget_tokens, count=count)
    chosen.sort(key=lambda hit: (hit.position, hit.span))
    return [_passage(hit, document=documents[hit.position][0]) for hit in chosen]


def _passage(hit: _Hit, *, document: str) -> Passage:
    start, end = hit.span
    return Passage(document=document, start=start, text=hit.text[start:end])


def _ranked(wanted: Counter[str], *, documents: Sequence[tuple[str, str]]) -> list[_Hit]:
    indexes = [indexed(id, text) for id, text in documents]
    scores = _scores(wanted, indexes=indexes)
    best = max(scores.values(), default=0.0)
    # Equal scores keep the order of the text, so that the choice never depends on hashing.
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [
        _Hit(position, documents[position][1], indexes[position].spans[number])
        for (position, number), score in order
        if score >= _WORTH * best
    ]


def _scores(wanted: Counter[str], *, indexes: Sequence[Index]) -> dict[tuple[int, int], float]:
    total = sum(len(index.spans) for index in indexes)
    average = sum(sum(index.lengths) for index in indexes) / max(1, total)
    scores: dict[tuple[int, int], float] = {}
    for term, weight in wanted.items():
        found = sum(index.frequency(term) for index in indexes)
        idf = math.log(1 + (total - found + 0.5) / (found + 0.5))
        for position, index in enumerate(indexes):
            for number, times in index.postings(term):
                length = index.lengths[number] / average
                damping = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length)
                gain = weight * idf * times * (_SATURATION + 1) / (times + damping)
                key = (position, number)
                scores[key] = scores.get(key, 0.0) + gain
    return scores


def _fill(
    hits: Sequence[_Hit], *, wanted: Counter[str], budget_tokens: int, count: Callable[[str], int]
) -> list[_Hit]:
    chosen: list[_Hit] = []
    left = budget_tokens
    for hit in hits[:_TRIES]:
        # What doesn't fit is cut to its best sentences if it is all there is, else passed over.
        fitting = hit if chosen or _cost(hit, count) <= left else _shrunk(hit, wanted, left, count)
        if fitting is None or (cost := _cost(fitting, count)) > left:
            continue
        chosen.append(fitting)
        left -= cost
        if left < _LEAST_TOKENS:
            break
    return chosen


def _cost(hit: _Hit, count: Callable[[str], int]) -> int:
    return count(hit.text[hit.span[0] : hit.span[1]])


def _shrunk(hit: _Hit, wanted: Counter[str], left: int, count: Callable[[str], int]) -> _Hit | None:
    """Grow from the sentence with most of the question's terms while the neighbours fit."""
    parts = list(sentences(hit.text, *hit.span))
    matched = [len(wanted.keys() & set(terms(hit.text[start:end]))) for start, end in parts]
    start = matched.index(max(matched))
    best: _Hit | None = None
    for first, last in _growing(start, length=len(parts)):
        grown = _Hit(hit.position, hit.text, (parts[first][0], parts[last][1]))
        if _cost(grown, count) > left:
            return best
        best = grown
    return best


def _growing(start: int, *, length: int) -> Iterator[tuple[int, int]]:
    first = last = start
    yield first, last
    while first > 0 or last < length - 1:
        if last < length - 1:
            last += 1
            yield first, last
        if first > 0:
            first -= 1
            yield first, last
