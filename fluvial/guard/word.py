"""The operator's own list: words and phrases that stand for a topic, in English and Chinese.

Matched without regard to case, width, invisible characters and the kind of white space. English
phrases match whole words, Chinese ones anywhere, since Chinese has no spaces. Letters that look
like Latin ones, marks on letters and traditional characters hide no word.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import final

from fluvial.guard.check import Finding, TextKind
from fluvial.guard.normal import Reading, normalise


@final
class WordCheck:
    """Finds the operator's words, with their place in the text. Immutable."""

    name = "words"

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        """Look for `words`: of each category, words and phrases in any language."""
        self._patterns = {
            category: _compile(phrases) for category, phrases in words.items() if phrases
        }
        listed = {category: list(phrases) for category, phrases in sorted(words.items())}
        data = json.dumps(["words 2", listed], ensure_ascii=False).encode()
        self.sha256 = hashlib.sha256(data).hexdigest()

    def find(self, text: str, *, kind: TextKind, context: str = "") -> list[Finding]:
        """Return each place of each phrase; the score is 1. `kind` and `context` change nothing."""
        if not self._patterns:
            return []
        as_is = Reading(text=text, starts=range(len(text) + 1))
        places = dict.fromkeys(self._match(as_is))
        plain = normalise(text)
        if plain.text != text:
            places |= dict.fromkeys(self._match(plain))
        return [
            Finding(category=category, score=1.0, check=self.name, start=start, end=end)
            for category, start, end in places
        ]

    def _match(self, reading: Reading) -> Iterator[tuple[str, int, int]]:
        plain, places = fold(reading.text)
        for category, pattern in self._patterns.items():
            for match in pattern.finditer(plain):
                start, last = places[match.start()], places[match.end() - 1]
                yield category, *reading.span(start, last + 1)


def fold(text: str) -> tuple[str, list[int]]:
    """Return `text` in its plain form, and for each character of that its place in `text`.

    Width and case are made one, invisible characters left out, white space becomes one space.
    """
    chars: list[str] = []
    places: list[int] = []
    for place, char in enumerate(text):
        for plain in _fold_char(char):
            if plain == " " and chars and chars[-1] == " ":
                continue
            chars.append(plain)
            places.append(place)
    return "".join(chars), places


def _fold_char(char: str) -> str:
    if char.isascii():
        return " " if char.isspace() else char.lower()
    if unicodedata.category(char) == "Cf":
        return ""
    plain = unicodedata.normalize("NFKC", char).casefold()
    return " " if not plain.strip() else plain


def _compile(phrases: Sequence[str]) -> re.Pattern[str]:
    """Make one pattern of all phrases, the longest first."""
    folded = sorted({fold(phrase)[0].strip() for phrase in phrases}, key=lambda p: (-len(p), p))
    return re.compile("|".join(_bound(phrase) for phrase in folded))


def _bound(phrase: str) -> str:
    """Let a phrase match whole words only, where it begins or ends with an ASCII letter."""
    before = r"(?<![a-z0-9])" if phrase[0].isascii() and phrase[0].isalnum() else ""
    after = r"(?![a-z0-9])" if phrase[-1].isascii() and phrase[-1].isalnum() else ""
    return before + re.escape(phrase) + after
