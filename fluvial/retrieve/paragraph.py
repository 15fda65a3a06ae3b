"""The lines of printed pages become paragraphs again."""

import re
from collections import Counter
from collections.abc import Sequence

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xa0": " "}
)
_LIST_ITEM = re.compile(r"\s*([-•*◦▪‣·–]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Z][.)]\s|\d+(\.\d+)+\s)")
_BROKEN_WORD = re.compile(r"([^\W\d_]+)[-\u2010]$")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]")
_FULL_LINE = 0.75


def join_lines(pages: Sequence[str]) -> str:
    """Join the lines of each paragraph, and words broken at line ends. Pages are set apart.

    A line that is nearly as wide as the text goes on in the next one, unless that begins a list
    item or is indented. Shorter lines (headings, verse, code, a paragraph's end) stay as they are.
    """
    cleaned = [_clean(page) for page in pages]
    lines = [line for page in cleaned for line in page]
    width = _text_width(lines)
    words = Counter(word.lower() for line in lines for word in _WORD.findall(line))
    joined = ("\n".join(_paragraphs(page, width=width, words=words)) for page in cleaned)
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(joined)).strip("\n") + "\n"


def _clean(page: str) -> list[str]:
    page = page.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n")
    return [line.rstrip() for line in page.translate(_LIGATURES).split("\n")]


def _text_width(lines: Sequence[str]) -> int:
    """Tell how wide full lines are, in characters: nine lines of ten are not wider."""
    widths = sorted(len(line) for line in lines if line)
    return widths[len(widths) * 9 // 10] if widths else 0


def _paragraphs(lines: Sequence[str], *, width: int, words: Counter[str]) -> list[str]:
    paragraphs: list[str] = []
    last_width = 0
    for line in lines:
        if paragraphs and _goes_on(paragraphs[-1], line, last_width=last_width, width=width):
            paragraphs[-1] = _join(paragraphs[-1], line.strip(), words=words)
        else:
            paragraphs.append(line)
        last_width = len(line)
    return paragraphs


def _goes_on(current: str, line: str, *, last_width: int, width: int) -> bool:
    if not current or not line or _LIST_ITEM.match(line) or line.startswith(("  ", "\t")):
        return False
    if current.endswith("\xad"):
        return True
    return last_width >= _FULL_LINE * width


def _join(left: str, right: str, *, words: Counter[str]) -> str:
    if left.endswith("\xad"):
        return left[:-1] + right
    broken = _BROKEN_WORD.search(left)
    if broken and right[:1].islower():
        return (left if _keeps_hyphen(broken[1], right, words=words) else left[:-1]) + right
    if left.endswith("-") or (_CJK.match(left[-1]) and _CJK.match(right)):
        return left + right
    return f"{left} {right}"


def _keeps_hyphen(first: str, right: str, *, words: Counter[str]) -> bool:
    """Tell a compound from a broken word by how the rest of the document writes it."""
    rest = _WORD.match(right)
    second = rest[0] if rest else ""
    return words[f"{first}-{second}".lower()] > words[f"{first}{second}".lower()]
