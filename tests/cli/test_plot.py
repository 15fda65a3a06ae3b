"""Pictures of what was read, parsed back."""

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from fluvial.cli.chart import FEW_CHUNKS, draw_chart, find_versions
from fluvial.cli.evidence import order_scores, sum_up
from fluvial.cli.main import run
from tests.cli.api import Api

Capture = pytest.CaptureFixture[str]
Json = dict[str, Any]
SVG = "{http://www.w3.org/2000/svg}"


def make_scores(count: int, *, per_version: int = 4) -> list[Json]:
    return [
        {
            "index": at + 1,
            "reading": "read_1",
            "start": 256 * at,
            "tokens": 256,
            "bytes": 1000 + at,
            "frozen_bits_per_byte": 1.5 + 0.1 * (at % 3),
            "adapted_bits_per_byte": 1.4 + 0.1 * (at % 3),
            "version": at // per_version,
            "learned": True,
            "reason": "",
            "seconds": 1.0,
        }
        for at in range(count)
    ]


def draw(scores: list[Json], *, title: str = "Rivers", current: int = 0) -> ET.Element:
    picture = draw_chart(scores, title=title, current=current)
    return ET.fromstring(picture)  # noqa: S314 - our own


def find_points(picture: ET.Element, name: str) -> list[tuple[float, float]]:
    (line,) = picture.findall(f"{SVG}polyline[@class='{name}']")
    pairs = (pair.split(",") for pair in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in pairs]


def find_texts(picture: ET.Element) -> list[str]:
    return [text.text or "" for text in picture.iter(f"{SVG}text")]


def test_both_lines_run_over_all_chunks_and_the_better_one_lies_lower() -> None:
    picture = draw(make_scores(10), current=2)
    frozen, adapted = find_points(picture, "frozen"), find_points(picture, "adapted")
    assert len(frozen) == len(adapted) == 10
    assert [x for x, _ in frozen] == [x for x, _ in adapted] == sorted(x for x, _ in frozen)
    # In an SVG lower means a greater y.
    assert all(a > f for (_, f), (_, a) in zip(frozen, adapted, strict=True))
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    assert all(0 < x < width and 0 < y < height for x, y in [*frozen, *adapted])


def test_chunks_lie_where_their_tokens_are() -> None:
    scores = make_scores(3)
    scores[0]["tokens"] = 1024
    (x0, _), (x1, _), (x2, _) = find_points(draw(scores), "frozen")
    # Middles at 512, 1152 and 1408 of 1536 tokens.
    assert (x1 - x0) / (x2 - x1) == pytest.approx(640 / 256, rel=1e-2)


def test_versions_are_marked_where_they_came_into_force() -> None:
    scores = make_scores(10)
    assert find_versions(scores, current=3) == [(1024, 1), (2048, 2), (2560, 3)]
    assert find_versions(scores, current=2) == [(1024, 1), (2048, 2)]
    picture = draw(scores, current=3)
    marks = picture.findall(f"{SVG}g[@class='version']")
    assert [mark.attrib["data-version"] for mark in marks] == ["1", "2", "3"]
    places = [float(mark.find(f"{SVG}line").attrib["x1"]) for mark in marks]  # type: ignore[union-attr]
    assert places == sorted(places)
    assert {"v1", "v2", "v3"} <= {*find_texts(picture)}


def test_names_of_versions_do_not_lie_over_each_other() -> None:
    picture = draw(make_scores(200, per_version=1), current=200)
    assert len(picture.findall(f"{SVG}g[@class='version']")) == 200
    names = [text for text in find_texts(picture) if text.startswith("v")]
    assert 5 < len(names) < 40


def test_axes_and_lines_are_named_on_a_light_ground() -> None:
    picture = draw(make_scores(5))
    texts = find_texts(picture)
    assert {"tokens read", "bits per byte, before learning", "frozen model", "adapted"} <= {*texts}
    assert "0" in texts
    assert picture[1].attrib["fill"] == "#ffffff"


def test_long_readings_get_a_running_mean_over_faint_chunks() -> None:
    scores = make_scores(FEW_CHUNKS + 1)
    scores[30]["frozen_bits_per_byte"] = 9.0
    picture = draw(scores)
    highest = min(y for _, y in find_points(picture, "frozen-chunks"))
    assert highest < min(y for _, y in find_points(picture, "frozen"))
    assert not picture.findall(f"{SVG}circle")


def test_one_chunk_alone_and_equal_figures_can_be_drawn() -> None:
    scores = make_scores(1)
    scores[0] |= {"frozen_bits_per_byte": 0.0, "adapted_bits_per_byte": 0.0}
    assert len(find_points(draw(scores), "adapted")) == 1


def test_titles_can_not_break_out() -> None:
    title = "</title><script>x</script>&\x00\x1b\ufffe\ud800 \u6cb3 \U0001f30a"
    picture = draw(make_scores(2), title=title)
    assert not [*picture.iter(f"{SVG}script")]
    assert any("<script>x</script>&" in text and "\u6cb3" in text for text in find_texts(picture))


def test_scores_lost_in_a_crash_do_not_count_twice() -> None:
    scores = make_scores(4)
    again = {**scores[1], "index": 9, "adapted_bits_per_byte": 1.0, "seconds": None}
    ordered = order_scores([again, *scores])
    assert [score["index"] for score in ordered] == [1, 3, 4, 9]
    total = sum_up(ordered)
    assert total is not None
    assert (total.chunks, total.seconds) == (4, None)
    assert sum_up([]) is None


def test_a_session_is_drawn_into_a_file_that_is_not_there_yet(
    api: Api, capsys: Capture, tmp_path: Path
) -> None:
    api.add_session("sess_1", title="Evil\x1b[2J <title>", version=1)
    api.add_score(1)
    api.add_score(2, start=50)
    file = tmp_path / "out.svg"
    assert run(["sessions", "plot", "sess_1", "--plot", str(file)]) == 0
    picture = ET.parse(file).getroot()  # noqa: S314 - our own
    assert len(find_points(picture, "frozen")) == 2
    assert [m.attrib["data-version"] for m in picture.findall(f"{SVG}g[@class='version']")] == ["1"]
    assert "\x1b" not in file.read_text()
    before = [*api.calls]
    assert run(["sessions", "plot", "sess_1", "--plot", str(file)]) == 1
    assert "exists; add --force" in capsys.readouterr().err
    assert api.calls == before
    assert run(["sessions", "plot", "sess_1", "--plot", str(file), "--force"]) == 0
    assert run(["sessions", "plot", "sess_1", "--plot", str(tmp_path / "out.png")]) == 1
    assert "end" in capsys.readouterr().err
    assert run(["sessions", "plot", "sess_1", "--plot", str(tmp_path / "no" / "out.svg")]) == 1


def test_nothing_read_is_no_picture(api: Api, capsys: Capture, tmp_path: Path) -> None:
    api.add_session("sess_1")
    assert run(["sessions", "plot", "sess_1", "--plot", str(tmp_path / "out.svg")]) == 1
    assert "nothing to draw" in capsys.readouterr().err
    assert not (tmp_path / "out.svg").exists()


def test_read_draws_what_it_read_and_no_more(api: Api, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    api.add_session("sess_1")
    api.add_reading("a.txt", steps=[0, 100])
    api.add_score(1, reading="read_0")
    api.add_score(2)
    file = tmp_path / "out.svg"
    assert run(["read", "sess_1", str(tmp_path / "a.txt"), "--plot", str(file)]) == 0
    assert len(find_points(ET.parse(file).getroot(), "adapted")) == 1  # noqa: S314 - our own
    sent = len(api.paths("POST"))
    assert run(["read", "sess_1", str(tmp_path / "a.txt"), "--plot", str(file)]) == 1
    assert len(api.paths("POST")) == sent
