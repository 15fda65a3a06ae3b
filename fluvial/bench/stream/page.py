"""Turn a manual's HTML page into plain text: its words in their order, one block a paragraph."""

import re
from html.parser import HTMLParser

_VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "wbr"}
_BLOCK = {
    *("p", "div", "section", "li", "dt", "dd", "tr", "table", "ul", "ol", "dl", "blockquote"),
    *("pre", "h1", "h2", "h3", "h4", "h5", "h6", "br", "hr", "title"),
}
_SKIPPED = {"head", "script", "style", "nav"}
_SKIPPED_MARKS = {"docnav", "navheader", "navfooter", "toc", "banner"}


def read_page(source: str) -> str:
    """Return the text of a page without its navigation; blocks end with one newline."""
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return reader.finish()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._skipped = self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _BLOCK and not self._skipped:
            self._parts.append("\n")
        if tag in _VOID:
            return
        marks = {mark for name, value in attrs if name in ("class", "id") for mark in _split(value)}
        if self._skipped or tag in _SKIPPED or marks & _SKIPPED_MARKS:
            self._skipped += 1
        elif self._preformatted or tag == "pre":
            self._preformatted += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID:
            return
        if self._skipped:
            self._skipped -= 1
            return
        if self._preformatted:
            self._preformatted -= 1
        if tag in _BLOCK:
            self._parts.append("\n")

    def handle_data(self, data: str) -> None:
        if self._skipped:
            return
        if not self._preformatted:
            data = re.sub(r"\s+", " ", data)
            if not self._parts or self._parts[-1].endswith(("\n", " ")):
                data = data.lstrip()
        self._parts.append(data)

    def finish(self) -> str:
        lines = (line.rstrip() for line in "".join(self._parts).splitlines())
        return "".join(f"{line}\n" for line in lines if line)


def _split(value: str | None) -> list[str]:
    return (value or "").split()
