"""Measure what learning is worth at several prices: how many chunks learn, and how many layers."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fluvial.bench.adapt import OnTokens, run
from fluvial.config import Settings

POINTS = (
    (1.0, 1.0),
    (1.0, 0.65),
    (1.0, 0.4),
    (0.5, 0.65),
    (0.5, 0.4),
    (0.25, 0.4),
    (0.25, 0.2),
)
"""Settings `share` and `depth`, from the dearest on."""


def measure_frontier(
    files: Sequence[Path],
    *,
    model_path: Path,
    settings: Settings,
    tokens: int | None = None,
    points: Sequence[tuple[float, float]] = POINTS,
    on_point: Callable[[float, float], None] = lambda share, depth: None,
    on_tokens: OnTokens = lambda path, done, total: None,
) -> dict[str, Any]:
    """Read the files frozen and learning once for each point, all else as the settings say.

    Returns of each point `share`, `depth`, the medians `gain_pct` and `overhead`, and the files'.
    """
    found: list[dict[str, Any]] = []
    for share, depth in points:
        on_point(share, depth)
        result = run(
            files,
            model_path=model_path,
            settings=settings.model_copy(update={"share": share, "depth": depth}),
            tokens=tokens,
            long_windows=False,
            on_tokens=on_tokens,
        )
        rows = result["files"]
        found.append(
            {
                "share": share,
                "depth": depth,
                "gain_pct": result["median_gain_pct"],
                "overhead": result["median_overhead"],
                "drift": round(statistics.median(row["drift"] for row in rows), 5),
                "files": [
                    {key: row[key] for key in ("path", "tokens", "gain_pct", "overhead")}
                    for row in rows
                ],
            }
        )
    return {"model": model_path.parent.name, "points": found}
