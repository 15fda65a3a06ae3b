"""Take plain paragraphs out of a dump of Wikipedia: what has markup left is passed over."""

import html
import re
from collections.abc import Iterator

_PAGE = re.compile(r"<text[^>]*>(.*?)</text>", re.S)
_DROPPED = (
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"<ref[^<>]*/>"),
    re.compile(r"<ref.*?</ref>", re.S),
    re.compile(r"\{\{[^{}]*\}\}"),
    re.compile(r"'''?"),
)
_LINK = re.compile(r"\[\[(?:[^\[\]|:]*\|)?([^\[\]|:]*)\]\]")
_MARKUP = re.compile(r"[\[\]{}<>|=*#]|&\w+;|https?:| [,.;:)]|\( |\(\)|\(,|\(;")
_NESTED_LEVELS = 5


def read_paragraphs(dump: str, *, per_page: int, chars: range) -> Iterator[str]:
    """Yield the first `per_page` clean paragraphs of each page whose length is within `chars`."""
    for page in _PAGE.finditer(dump):
        text = _strip(html.unescape(page[1]))
        lines = (line.strip() for line in text.splitlines())
        clean = [
            line
            for line in lines
            if len(line) in chars and line[0].isupper() and not _MARKUP.search(line)
        ]
        yield from clean[:per_page]


def _strip(text: str) -> str:
    for _ in range(_NESTED_LEVELS):
        for pattern in _DROPPED:
            text = pattern.sub("", text)
    return _LINK.sub(r"\1", text).replace("\xa0", " ").replace("&nbsp;", " ")
