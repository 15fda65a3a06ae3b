"""Draw what was read as an SVG: bits per byte by tokens, frozen beside adapted, versions marked."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from fluvial.cli.svg import (
    BOTTOM,
    GRID,
    HEIGHT,
    LEFT,
    QUIET,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    choose_ticks,
    draw_line,
    join_points,
    make_sheet,
    write_text,
)

Json = dict[str, Any]

LABEL_GAP = 34
FEW_CHUNKS = 60
FROZEN, ADAPTED = "#7d8b95", "#0a6f82"


def draw_chart(scores: Sequence[Json], *, title: str, current: int) -> str:
    """Return an SVG of `scores`, one or more, in their order; `current`: the version after them.

    Over FEW_CHUNKS chunks each curve is drawn twice: faint, and as a running mean.
    """
    scale = _Scale(scores)
    marks = find_versions(scores, current=current)
    parts = [
        *_draw_legend(scores),
        *_draw_axes(scale),
        *_draw_versions(marks, scale),
        *_draw_curve("frozen", FROZEN, scores, scale),
        *_draw_curve("adapted", ADAPTED, scores, scale),
    ]
    return make_sheet(parts, title=title)


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
    for bits in choose_ticks(scale.low, scale.high, count=5):
        y = scale.y(bits)
        parts.append(draw_line(LEFT, y, right, y, GRID))
        parts.append(write_text(LEFT - 8, y + 4, f"{bits:.4g}", anchor="end"))
    for tokens in choose_ticks(0, scale.tokens, count=6):
        anchor = "end" if scale.x(tokens) > right - 20 else "middle"
        parts.append(write_text(scale.x(tokens), bottom + 20, f"{tokens:,.0f}", anchor=anchor))
    parts.append(draw_line(LEFT, bottom, right, bottom, QUIET))
    parts.append(write_text((LEFT + right) / 2, HEIGHT - 12, "tokens read", anchor="middle"))
    middle = (TOP + bottom) / 2
    turn = f' transform="rotate(-90 18 {middle:.1f})"'
    label = "bits per byte, before learning"
    return [*parts, write_text(18, middle, label, anchor="middle", more=turn)]


def _draw_versions(marks: Sequence[tuple[int, int]], scale: _Scale) -> list[str]:
    parts: list[str] = []
    free = -math.inf
    for tokens, version in marks:
        x = scale.x(tokens)
        name = f"v{version}" if version else "base"
        label, opacity = "", 0.35
        if x >= free:
            label, opacity = write_text(x, TOP - 6, name, size=11, anchor="middle"), 1.0
            free = x + LABEL_GAP
        style = f' stroke-dasharray="2 4" stroke-opacity="{opacity}"'
        line = draw_line(x, TOP, x, HEIGHT - BOTTOM, QUIET, more=style)
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
    mean = join_points(place(_smooth(scores, value, window=window)))
    curve = f'<polyline class="{side}" fill="none" stroke="{colour}" stroke-width="2" {mean}/>'
    if window == 1:
        dots = [
            f'<circle class="{side}" cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>'
            for x, y in place([value(score) for score in scores])
        ]
        return [curve, *dots]
    raw = join_points(place([value(score) for score in scores]))
    style = f'fill="none" stroke="{colour}" stroke-width="1" stroke-opacity="0.3"'
    return [f'<polyline class="{side}-chunks" {style} {raw}/>', curve]


def _draw_legend(scores: Sequence[Json]) -> list[str]:
    parts: list[str] = []
    for x, name, colour in ((LEFT, "frozen model", FROZEN), (LEFT + 130, "adapted", ADAPTED)):
        parts.append(draw_line(x, 42, x + 18, 42, colour, width=3))
        parts.append(write_text(x + 24, 46, name))
    if len(scores) > FEW_CHUNKS:
        parts.append(write_text(LEFT + 230, 46, "bold: running mean"))
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
