"""Find special tokens in a template's text, in time that no vocabulary can blow up.

A regular expression of all tokens tries each of them at each place: thousands that begin alike,
and a text of their first character, would take minutes.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any


class MarkFinder:
    """Find the longest of some strings, from left to right; immutable, safe between threads."""

    def __init__(self, marks: Iterable[str]) -> None:
        self._root: dict[str, Any] = {}
        for mark in marks:
            node = self._root
            for char in mark:
                node = node.setdefault(char, {})
            node[""] = True
        firsts = "".join(map(re.escape, sorted(self._root)))
        self._first = re.compile(f"[{firsts}]" if firsts else r"(?!)")

    def find(self, text: str) -> Iterator[tuple[int, int]]:
        """Yield start and end of each mark in `text`; they do not overlap."""
        at = 0
        while found := self._first.search(text, at):
            start = found.start()
            end = self._measure(text, start)
            if end > start:
                yield start, end
            at = max(end, start + 1)

    def _measure(self, text: str, start: int) -> int:
        node, end = self._root, start
        for at in range(start, len(text)):
            node = node.get(text[at])
            if node is None:
                break
            if "" in node:
                end = at + 1
        return end
