"""The page of a release: whole, drawn to scale, and deaf to what stands in it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from fluvial.gate import signing
from fluvial.gate.release import Release
from fluvial.gate.report import choose_scale, draw_intervals, write_report
from tests.gate.made import (
    ENDED_AT,
    make_evidence,
    make_judged_plan,
    make_plan,
    make_results,
    make_risk,
)

HOSTILE = "<script>alert(1)</script>\"'&<img src=x onerror=y>"


def make(*, plan: Any = None, seen: Any = ()) -> Release:
    results = make_results(plan or make_judged_plan(), *seen)
    return signing.make_release(results, now=ENDED_AT + 60, days=30)


def three() -> Release:
    plan = make_plan(
        make_risk(), make_risk("talk"), make_risk("floor", direction="at_least", bar=0.9)
    )
    return make(plan=plan, seen=(make_evidence(60), make_evidence(60, 30), make_evidence(60, 3)))


class Tags(HTMLParser):
    """Collects the tags, their attributes and the words of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_says_everything() -> None:
    release = three()
    page = write_report(release, now=ENDED_AT + 60)
    words = " ".join(Tags(page).words)
    for risk in release.terms.risks:
        assert risk.name in words
        assert risk.verdict in words
        assert risk.reason in words
    for sha256 in (*release.subjects.values(), release.terms.plan_sha256):
        assert sha256 in words
    assert "never valid for production" in words
    assert "What this does not prove" in words
    assert "0.05" in words
    assert "not checked" in words


def test_a_release_that_passed_says_so_until_it_expires() -> None:
    release = make()
    fresh = write_report(release, now=ENDED_AT + 60)
    assert "every risk passed" in fresh
    assert "never valid" not in fresh
    assert "expired" not in fresh
    assert "It has expired" in write_report(release, now=ENDED_AT + 60 + 30 * 86_400)
    assert "judge people: caught 190 of 200" in fresh


def test_nothing_is_loaded_and_nothing_runs() -> None:
    page = write_report(three(), note="x", now=0)
    found = Tags(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not {"src", "href", "onerror", "onload"} & set(found.attributes)
    assert "default-src 'none'" in page


def test_texts_of_others_are_escaped() -> None:
    release = three()
    risk = replace(release.terms.risks[0], name=HOSTILE, task=HOSTILE, reason=HOSTILE)
    terms = replace(release.terms, model=HOSTILE, lineage=HOSTILE, risks=(risk,))
    hostile = Release(subjects={HOSTILE + "\u202e\x1b": "a" * 64}, terms=terms)
    page = write_report(hostile, note=HOSTILE, now=0)
    assert not {"script", "img"} & set(Tags(page).tags)
    assert "onerror" not in Tags(page).attributes
    assert HOSTILE in " ".join(Tags(page).words)
    assert not re.search("[\u202e\x1b]", page)


def test_the_drawing_is_to_scale() -> None:
    release = three()
    root = ElementTree.fromstring(draw_intervals(release.terms.risks))  # noqa: S314
    for group, risk in zip(root.findall("g"), release.terms.risks, strict=True):
        lines = {line.get("class"): line for line in group.findall("line")}
        axis, bar = lines["axis"], lines["bar"]
        span = next(line for name, line in lines.items() if (name or "").startswith("span"))
        left, right = (float(axis.get(name) or 0) for name in ("x1", "x2"))
        low, high = choose_scale(risk)
        pixel = (high - low) / (right - left)
        for line, name, drawn in (
            (span, "x1", risk.bound_below),
            (span, "x2", risk.bound_above),
            (bar, "x1", risk.bar),
        ):
            share = low + (float(line.get(name) or 0) - left) * pixel
            assert share == pytest.approx(drawn, abs=1.1 * pixel)


@pytest.mark.parametrize("direction", ["at_most", "at_least"])
@pytest.mark.parametrize("bar", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("failed", [0, 30, 60])
def test_every_scale_holds_its_bar_and_its_bounds(direction: str, bar: float, failed: int) -> None:
    plan = make_plan(make_risk(direction=direction, bar=bar))
    risk = make(plan=plan, seen=(make_evidence(60, failed),)).terms.risks[0]
    low, high = choose_scale(risk)
    assert 0 <= low < high <= 1
    for share in (risk.bar, risk.bound_below, risk.bound_above):
        inside = min(max(share, low), high)
        assert share == pytest.approx(inside, abs=1e-12)
