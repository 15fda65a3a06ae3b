"""From a text to what the classifier reads: numbers of word pieces, and hashed pairs of words.

Word pieces are those of BERT's English vocabulary, longest match first (Wu et al. 2016, section
4.1). Chinese is read by characters, and by hashed runs of two and three of them. One window of a
text is read at a time, so that the work for it is bounded.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WINDOW_WORDS = 160
STRIDE_WORDS = 120
MAX_PIECES = 256
SPOT_WORDS = 72
MAX_SPOTS = 8
"""What the slow reader sees of a long prompt: its beginning and its end."""
MAX_WORD_CHARS = 40
"""Longer words are cut: nothing in them beyond that tells what a text is about."""
HASH_ROWS = 2**14
MAX_WINDOWS = 2000
"""At 120 words each: some 1.4 million characters."""

_WORD = re.compile(r"[a-z0-9]+|[\u4e00-\u9fff]|[^\sa-z0-9\u4e00-\u9fff]")
_UNKNOWN = 0


@dataclass(frozen=True, kw_only=True)
class Features:
    """One window: rows of the table of pieces (at least one), rows of the hashed table."""

    pieces: Sequence[int]
    hashes: Sequence[int]


def split_words(text: str) -> list[str]:
    """Return the words, Chinese characters and signs of a text, in small letters."""
    return _WORD.findall(text.lower())


def cut_windows(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut words into overlapping windows; those of a text's beginning are windows of the text."""
    last = max(0, len(words) - (WINDOW_WORDS - STRIDE_WORDS))
    starts = range(0, max(1, last), STRIDE_WORDS)
    return [tuple(words[start : start + WINDOW_WORDS]) for start in starts]


def cut_spots(words: Sequence[str]) -> list[tuple[str, ...]]:
    """Cut words into pieces of SPOT_WORDS, the first and the last few of them."""
    starts = list(range(0, max(1, len(words)), SPOT_WORDS))
    if len(starts) > MAX_SPOTS:
        starts = [*starts[: MAX_SPOTS // 2], *starts[-MAX_SPOTS // 2 :]]
    return [tuple(words[start : start + SPOT_WORDS]) for start in starts]


def is_chinese(words: Sequence[str]) -> bool:
    """Tell whether a fifth of the words or more are Chinese characters."""
    return 5 * sum("\u4e00" <= word <= "\u9fff" for word in words) >= max(1, len(words))


@dataclass(frozen=True)
class Vocabulary:
    """Word pieces by their row. Row 0 is for what is not known; earlier rows are commoner words."""

    rows: Mapping[str, int]

    def read(self, words: Sequence[str]) -> Features:
        """Return the features of one window."""
        pieces = [row for word in words for row in self._cut(word)][:MAX_PIECES]
        return Features(pieces=pieces or [_UNKNOWN], hashes=_hash(words))

    def _cut(self, word: str) -> list[int]:
        if word in self.rows:
            return [self.rows[word]]
        word, found, start = word[:MAX_WORD_CHARS], list[int](), 0
        while start < len(word):
            mark = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((each for each in ends if mark + word[start:each] in self.rows), None)
            if end is None:
                return [_UNKNOWN]
            found.append(self.rows[mark + word[start:end]])
            start = end
        return found

    def part(self, word: str) -> list[str]:
        """Part a run of letters without spaces into its likeliest known words.

        The cost of a word grows with its row, as rows are in the order of how common words are.
        """
        word = word[: 8 * MAX_WORD_CHARS]
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(word) + 1):
            starts = range(max(0, end - 16), end)
            best.append(min((best[at][0] + self._cost(word[at:end]), at) for at in starts))
        parts: list[str] = []
        end = len(word)
        while end:
            start = best[end][1]
            parts.append(word[start:end])
            end = start
        return parts[::-1]

    def _cost(self, word: str) -> float:
        row = self.rows.get(word)
        if row is None or (len(word) == 1 and word not in "ai"):
            return 20.0 * len(word)
        return math.log(row + 50.0)


def _hash(words: Sequence[str]) -> list[int]:
    """Return the rows of single words, of pairs, and of three Chinese characters in a row."""
    names = [*words, *(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))]
    triples = zip(words, words[1:], words[2:], strict=False)
    names += [a + b + c for a, b, c in triples if "\u4e00" <= b <= "\u9fff"]
    return [zlib.crc32(name.encode("utf-8", "replace")) % HASH_ROWS for name in names]
