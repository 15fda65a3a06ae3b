"""Draw what was read as an SVG: bits per byte by tokens, frozen beside adapted, versions marked.

Places are in pixels, from the top left. Text comes from users: it is escaped, and characters that
XML can't hold are replaced.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any
from xml.sax.saxutils import escape

Json = dict[str, Any]
Point = tuple[float, float]

WIDTH, HEIGHT = 960, 460
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 66, 58
LABEL_GAP = 34
FEW_CHUNKS = 60
INK, QUIET, GRID = "#15212a", "#5f6e78", "#dbe2e6"
FROZEN, ADAPTED = "#7d8b95", "#0a6f82"

_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def draw_chart(scores: Sequence[Json], *, title: str, current: int) -> str:
    """Return an SVG of `scores`, one or more, in their order; `current`: the version after them.

    Over FEW_CHUNKS chunks each curve is drawn twice: faint, and as a running mean.
    """
    scale = _Scale(scores)
    marks = find_versions(scores, current=current)
    parts = [
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _write(LEFT, 26, title, size=16, fill=INK, weight=600),
        *_draw_legend(scores),
        *_draw_axes(scale),
        *_draw_versions(marks, scale),
        *_draw_curve("frozen", FROZEN, scores, scale),
        *_draw_curve("adapted", ADAPTED, scores, scale),
    ]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif">\n'
        f"<title>{_escape(title)}</title>\n{body}\n</svg>\n"
    )


def find_versions(scores: Sequence[Json], *, current: int) -> list[tuple[int, int]]:
    """Return (tokens read, version) wherever another version came into force."""
    marks: list[tuple[int, int]] = []
    tokens, before = 0, scores[0]["version"]
    for score in scores:
        if score["version"] != before:
            marks.append((tokens, score["version"]))
        before = score["version"]
        tokens += score["tokens"]
    return [*marks, (tokens, current)] if current != before else marks


class _Scale:
    """From tokens and bits per byte to places."""

    def __init__(self, scores: Sequence[Json]) -> None:
        bits = [s[f"{side}_bits_per_byte"] for s in scores for side in ("frozen", "adapted")]
        air = max(0.08 * (max(bits) - min(bits)), 0.02)
        self.low, self.high = max(0.0, min(bits) - air), max(bits) + air
        self.tokens = max(1, sum(score["tokens"] for score in scores))

    def x(self, tokens: float) -> float:
        return LEFT + tokens / self.tokens * (WIDTH - LEFT - RIGHT)

    def y(self, bits: float) -> float:
        share = (bits - self.low) / (self.high - self.low)
        return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)


def _draw_axes(scale: _Scale) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts: list[str] = []
    for bits in _choose_ticks(scale.low, scale.high, count=5):
        y = scale.y(bits)
        parts.append(_draw_line(LEFT, y, right, y, GRID))
        parts.append(_write(LEFT - 8, y + 4, f"{bits:.4g}", anchor="end"))
    for tokens in _choose_ticks(0, scale.tokens, count=6):
        anchor = "end" if scale.x(tokens) > right - 20 else "middle"
        parts.append(_write(scale.x(tokens), bottom + 20, f"{tokens:,.0f}", anchor=anchor))
    parts.append(_draw_line(LEFT, bottom, right, bottom, QUIET))
    parts.append(_write((LEFT + right) / 2, HEIGHT - 12, "tokens read", anchor="middle"))
    middle = (TOP + bottom) / 2
    turn = f' transform="rotate(-90 18 {middle:.1f})"'
    label = "bits per byte, before learning"
    return [*parts, _write(18, middle, label, anchor="middle", more=turn)]


def _draw_versions(marks: Sequence[tuple[int, int]], scale: _Scale) -> list[str]:
    parts: list[str] = []
    free = -math.inf
    for tokens, version in marks:
        x = scale.x(tokens)
        name = f"v{version}" if version else "base"
        label, opacity = "", 0.35
        if x >= free:
            label, opacity = _write(x, TOP - 6, name, size=11, anchor="middle"), 1.0
            free = x + LABEL_GAP
        style = f' stroke-dasharray="2 4" stroke-opacity="{opacity}"'
        line = _draw_line(x, TOP, x, HEIGHT - BOTTOM, QUIET, more=style)
        parts.append(f'<g class="version" data-version="{version}">{line}{label}</g>')
    return parts


def _draw_curve(side: str, colour: str, scores: Sequence[Json], scale: _Scale) -> list[str]:
    def place(values: Sequence[float]) -> list[Point]:
        places: list[Point] = []
        tokens = 0
        for score, value in zip(scores, values, strict=True):
            places.append((scale.x(tokens + score["tokens"] / 2), scale.y(value)))
            tokens += score["tokens"]
        return places

    def value(score: Json) -> float:
        return score[f"{side}_bits_per_byte"]

    window = 1 if len(scores) <= FEW_CHUNKS else 2 * round(len(scores) / FEW_CHUNKS) + 1
    mean = _join(place(_smooth(scores, value, window=window)))
    curve = f'<polyline class="{side}" fill="none" stroke="{colour}" stroke-width="2" {mean}/>'
    if window == 1:
        dots = [
            f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
            for x, y in place([value(score) for score in scores])
        ]
        return [curve, *dots]
    raw = _join(place([value(score) for score in scores]))
    style = f'fill="none" stroke="{colour}" stroke-width="1" stroke-opacity="0.3"'
    return [f'<polyline class="{side}-chunks" {style} {raw}/>', curve]


def _draw_legend(scores: Sequence[Json]) -> list[str]:
    parts: list[str] = []
    for x, name, colour in ((LEFT, "frozen model", FROZEN), (LEFT + 130, "adapted", ADAPTED)):
        parts.append(_draw_line(x, 42, x + 18, 42, colour, width=3))
        parts.append(_write(x + 24, 46, name))
    if len(scores) > FEW_CHUNKS:
        parts.append(_write(LEFT + 230, 46, "bold: running mean"))
    return parts


def _smooth(scores: Sequence[Json], value: Callable[[Json], float], *, window: int) -> list[float]:
    """Average each chunk with its neighbours, weighted by bytes; fewer at the ends."""
    reach = window // 2
    means: list[float] = []
    for index in range(len(scores)):
        near = scores[max(0, index - reach) : index + reach + 1]
        size = sum(score["bytes"] for score in near)
        bits = sum(value(score) * score["bytes"] for score in near)
        means.append(bits / size if size else value(scores[index]))
    return means


def _choose_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Choose round values within the range, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _join(points: Sequence[Point]) -> str:
    return 'points="' + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) + '"'


def _draw_line(
    x1: float, y1: float, x2: float, y2: float, colour: str, *, width: float = 1, more: str = ""
) -> str:
    ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{width}"{more}/>'


def _write(
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
    style = f'font-size="{size}" font-weight="{weight}" fill="{fill}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}{more}>{_escape(text)}</text>'


def _escape(text: str) -> str:
    return escape(_ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text))
