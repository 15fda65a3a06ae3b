"""`fluvial bench frontier`: what less learning costs and gains, and its picture."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from fluvial.bench.frontier import measure_frontier
from fluvial.cli.bench_frontier import draw_frontier, find_best
from fluvial.config import load
from tests.bench.test_adapt import RULE, TEXT


def test_each_point_learns_as_much_as_it_says(tmp_path: Path, tiny_model: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    seen: list[tuple[float, float]] = []
    points = ((1.0, 1.0), (1.0, 0.5), (0.25, 1.0))
    result = measure_frontier(
        [file],
        model_path=tiny_model,
        settings=load(overrides={**RULE, "data_dir": tmp_path / "data"}),
        tokens=1024,
        points=points,
        on_point=lambda share, depth: seen.append((share, depth)),
    )
    assert tuple(seen) == points
    whole, upper, few = result["points"]
    assert (upper["share"], upper["depth"]) == (1.0, 0.5)
    assert whole["gain_pct"] > few["gain_pct"] > 0
    assert upper["gain_pct"] != whole["gain_pct"]
    assert all(point["overhead"] > 0 for point in result["points"])
    assert [row["tokens"] for row in whole["files"]] == [1024]


def test_the_picture_shows_each_point_and_joins_those_that_none_beats() -> None:
    result: dict[str, Any] = {
        "model": "m & m",
        "points": [_point(2.2, 9), _point(1.5, 7), _point(1.6, 5)],
    }
    assert [point["gain_pct"] for point in find_best(result["points"])] == [7, 9]
    root = ElementTree.fromstring(draw_frontier(result))  # noqa: S314 - our own picture
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert tags.count("circle") == 3
    (line,) = (each for each in root.iter() if each.tag.endswith("polyline"))
    assert len(line.attrib["points"].split()) == 2
    title = next(each for each in root.iter() if each.tag.endswith("title"))
    assert title.text is not None
    assert title.text.startswith("m & m: median gain on 1 texts")


@pytest.mark.parametrize("gain", [-3.0, 0.0, 0.1, 40.0])
def test_any_gain_can_be_drawn(gain: float) -> None:
    ElementTree.fromstring(draw_frontier({"model": "m", "points": [_point(1.0, gain)]}))  # noqa: S314


def _point(overhead: float, gain: float) -> dict[str, Any]:
    return {"share": 1.0, "depth": 0.7, "overhead": overhead, "gain_pct": gain, "files": [{}]}
