"""What pictures are drawn with: SVG texts, lines, ticks and the sheet around them.

Places are in pixels, from the top left. Text comes from users: it is escaped, and characters that
XML can't hold are replaced.
"""

import math
import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 66, 58
INK, QUIET, GRID = "#15212a", "#5f6e78", "#dbe2e6"

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def make_sheet(parts: Sequence[str], *, title: str) -> str:
    """Return the SVG: a white sheet with a title and these parts."""
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    heading = write_text(LEFT, 26, title, size=16, fill=INK, weight=600)
    body = "\n".join([background, heading, *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif">\n'
        f"<title>{escape_text(title)}</title>\n{body}\n</svg>\n"
    )


def choose_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Choose round values within the range, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def join_points(points: Sequence[Point]) -> str:
    """Return the attribute of a polyline through these points."""
    return 'points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"'


def draw_line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, more: str = ""
) -> str:
    """Return a line."""
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{more}/>'


def write_text(
    x: float,
    y: float,
    text: str,
    *,
    size: int = 12,
    fill: str = QUIET,
    anchor: str = "start",
    weight: int = 400,
    more: str = "",
) -> str:
    """Return a line of text; `anchor` says which part of it is at x."""
    style = f'font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}{more}>{escape_text(text)}</text>'


def escape_text(text: str) -> str:
    """Return text as XML can hold it."""
    return escape(_ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text))
