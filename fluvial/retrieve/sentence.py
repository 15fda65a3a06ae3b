"""Where sentences begin and end, and how texts are cut into passages along them."""

import re
from collections.abc import Iterator

from fluvial.retrieve.term import CJK

Span = tuple[int, int]

PASSAGE_WORDS = 120
PASSAGE_CJK = 200
_SHORTEST = 0.4
"""A paragraph's end closes a passage that is at least this full; a shorter one goes on."""

# A full stop needs a space behind it; Chinese ones don't. A line end alone is a border only before
# a list item or a heading: texts are often wrapped in the middle of a sentence.
_BORDER = re.compile(
    r"[.!?…][\"'”’)\]]*(?=\s)|[。！？；…][”’」』)]*|\n[ \t]*(?=\n)|\n(?=[ \t]*[#*•-])"
)
# Long words, rules and gaps weigh what they take, so that no text makes an endless passage.
_UNIT = re.compile(rf"[{CJK}]|[^\W{CJK}]{{1,32}}|\W{{8,32}}")
_IS_CJK = re.compile(rf"[{CJK}]")


def passages(text: str) -> Iterator[Span]:
    """Yield the spans of passages: whole sentences, in order, none overlapping, none blank.

    A passage weighs at most 1 (120 words, 200 Chinese characters, or a mix). A sentence that is
    longer is cut at a line end, else between words.
    """
    start, end, held = 0, 0, 0.0
    for first, last in sentences(text, 0, len(text)):
        added = weight(text, end if held else first, last)
        if held and (held + added > 1 or (held >= _SHORTEST and "\n\n" in text[end:first])):
            yield start, end
            held = 0.0
        if not held:
            start = first
        end = last
        held += added
    if held:
        yield start, end


def sentences(text: str, start: int, end: int) -> Iterator[Span]:
    """Yield the spans of sentences in `text[start:end]`, without the blanks around them."""
    begin = start
    for match in _BORDER.finditer(text, start, end):
        yield from _cut(text, begin, match.end())
        begin = match.end()
    yield from _cut(text, begin, end)


def weight(text: str, start: int, end: int) -> float:
    """Tell which part of a passage a span fills."""
    return sum(_unit_weight(unit[0]) for unit in _UNIT.finditer(text, start, end))


def _cut(text: str, start: int, end: int) -> Iterator[Span]:
    """Strip the blanks around a sentence, and cut it where it is too long for one passage."""
    held, begin, line_end = 0.0, start, start
    for unit in _UNIT.finditer(text, start, end):
        line_end = max(line_end, text.rfind("\n", begin, unit.start()) + 1)
        held += _unit_weight(unit[0])
        if held > 1:
            border = line_end if line_end > begin else unit.start()
            yield from _stripped(text, begin, border)
            begin = border
            held = weight(text, begin, unit.end())
    yield from _stripped(text, begin, end)


def _unit_weight(unit: str) -> float:
    return 1 / PASSAGE_CJK if _IS_CJK.match(unit) else 1 / PASSAGE_WORDS


def _stripped(text: str, start: int, end: int) -> Iterator[Span]:
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    last = start + len(piece.rstrip())
    if first < last:
        yield first, last
