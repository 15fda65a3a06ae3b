"""`fluvial bench frontier`: gain against cost, as a table and a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fluvial.cli.installed import ensure_model, print_line
from fluvial.cli.option import config_option, data_dir_option, load_settings
from fluvial.cli.svg import (
    BOTTOM,
    GRID,
    HEIGHT,
    INK,
    LEFT,
    QUIET,
    RIGHT,
    TOP,
    WIDTH,
    choose_ticks,
    draw_line,
    join_points,
    make_sheet,
    write_text,
)

DOT = "#0a6f82"


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object last.")
@click.option("--tokens", type=click.IntRange(1), help="Stop after this many tokens of each file.")
@click.option("--model", help="Model to measure; pulled first when it is not installed.")
@click.option(
    "--plot",
    "plot_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Save a picture (SVG).",
)
@click.option("--force", is_flag=True, help="Overwrite the picture.")
@data_dir_option
@config_option
def frontier(
    files: tuple[Path, ...],
    as_json: bool,
    tokens: int | None,
    model: str | None,
    plot_file: Path | None,
    force: bool,
    data_dir: Path | None,
    config_file: Path | None,
) -> None:
    """Compare learning from more and fewer chunks and layers of FILES: what it gains and costs."""
    from fluvial.cli.connection import write_file
    from fluvial.cli.plot import check_target
    from fluvial.cli.progress import Bar

    if plot_file is not None:
        check_target(plot_file, force=force)
    settings = load_settings(config_file, data_dir=data_dir, model=model)
    path = ensure_model(settings.model, settings)
    from fluvial.bench.frontier import measure_frontier

    at = ""
    with Bar(unit="tokens") as reading:

        def begin(share: float, depth: float) -> None:
            nonlocal at
            at = f"share {share}, depth {depth}"

        def show(name: str, done: int, total: int) -> None:
            if not reading.is_at(f"{at}: {name}"):
                reading.start(f"{at}: {name}", total=total)
            reading.reach(done, total=total)

        result = measure_frontier(
            list(files),
            model_path=path,
            settings=settings,
            tokens=tokens,
            on_point=begin,
            on_tokens=show,
        )
    if plot_file is not None:
        write_file(plot_file, draw_frontier(result).encode(), force=force)
    if as_json:
        print_line(result)
    else:
        _print_points(result)


def draw_frontier(result: dict[str, Any]) -> str:
    """Return an SVG of gain by time, one dot a point; those that none other beats are joined."""
    points = result["points"]
    costs, gains = ([point[key] for point in points] for key in ("overhead", "gain_pct"))
    right, low, high = max(*costs, 2.0) + 0.1, min(*gains, 0.0), max(*gains, 1.0) * 1.1

    def place(point: dict[str, Any]) -> tuple[float, float]:
        x = LEFT + (point["overhead"] - 1) / (right - 1) * (WIDTH - LEFT - RIGHT)
        y = TOP + (high - point["gain_pct"]) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return x, y

    parts: list[str] = []
    for gain in choose_ticks(low, high, count=5):
        y = place({"overhead": 1, "gain_pct": gain})[1]
        parts.append(draw_line(LEFT, y, WIDTH - RIGHT, y, GRID))
        parts.append(write_text(LEFT - 8, y + 4, f"{gain:.4g} %", anchor="end"))
    for cost in choose_ticks(1, right, count=6):
        x = place({"overhead": cost, "gain_pct": low})[0]
        parts.append(write_text(x, HEIGHT - BOTTOM + 20, f"{cost:.4g}x", anchor="middle"))
    best = [place(point) for point in find_best(points)]
    parts.append(f'<polyline fill="none" stroke="{DOT}" stroke-width="2" {join_points(best)}/>')
    for point in points:
        x, y = place(point)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{DOT}"/>')
        label = f"share {point['share']:g}, depth {point['depth']:g}"
        parts.append(write_text(x - 8, y - 8, label, size=11, fill=INK, anchor="end"))
    axis = "time of reading with learning, over reading without"
    parts.append(write_text(WIDTH / 2, HEIGHT - 12, axis, anchor="middle", fill=QUIET))
    title = f"{result['model']}: median gain on {len(points[0]['files'])} texts, and its price"
    return make_sheet(parts, title=title)


def find_best(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the points that no cheaper one equals in gain, the cheapest first."""
    best: list[dict[str, Any]] = []
    for point in sorted(points, key=lambda point: (point["overhead"], -point["gain_pct"])):
        if not best or point["gain_pct"] > best[-1]["gain_pct"]:
            best.append(point)
    return best


def _print_points(result: dict[str, Any]) -> None:
    from fluvial.cli.terminal import print_table

    rows = [
        [
            f"{point['share']:g}",
            f"{point['depth']:g}",
            f"{point['gain_pct']:.2f}%",
            f"{point['overhead']:.2f}x",
            f"{point['drift']:.4f}",
        ]
        for point in result["points"]
    ]
    print_table(["share", "depth", "gain", "time", "drift"], rows, right=(0, 1, 2, 3, 4))
