"""The search index of one document, kept while it is in use."""

import threading
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterator

from fluvial.retrieve.sentence import Span, passages
from fluvial.retrieve.term import terms

_KEPT_DOCUMENTS = 16
_KEPT_CHARACTERS = 16 * 2**20
"""Indexes of more text than this are not kept: they take about ten times as much memory."""


class Index:
    """Which terms stand in which passages of a text. Immutable once built.

    `spans` are the passages' places in the text, `lengths` the number of terms in each.
    """

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = list(passages(text))
        self.lengths = array("I")
        self.characters = len(text)
        self._postings: dict[str, array[int]] = {}
        for number, (start, end) in enumerate(self.spans):
            self._add(number, Counter(terms(text[start:end])))

    def _add(self, number: int, counted: Counter[str]) -> None:
        self.lengths.append(counted.total())
        for term, times in counted.items():
            self._postings.setdefault(term, array("I")).extend((number, times))

    def frequency(self, term: str) -> int:
        """Tell how many passages have the term."""
        return len(self._postings.get(term, ())) // 2

    def postings(self, term: str) -> Iterator[tuple[int, int]]:
        """Yield the passages that have the term, in order, with how often it stands there."""
        flat = self._postings.get(term, ())
        return zip(flat[::2], flat[1::2], strict=True)


_kept: OrderedDict[tuple[str, int, int], Index] = OrderedDict()
_lock = threading.Lock()


def indexed(id: str, text: str) -> Index:
    """Give the index of a document, built now or kept from before. Safe to call from many threads.

    Two threads may build the same index at once; the lock is not held meanwhile, so that a long
    document keeps nobody else waiting.
    """
    key = (id, len(text), hash(text))
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    index = Index(text)
    with _lock:
        _kept[key] = index
        _drop_oldest()
    return index


def _drop_oldest() -> None:
    while _kept and (
        len(_kept) > _KEPT_DOCUMENTS
        or sum(index.characters for index in _kept.values()) > _KEPT_CHARACTERS
    ):
        _kept.popitem(last=False)
