"""Publish, adopt and merge in a real browser, tiny model; notes in both languages, on any width."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from playwright.sync_api import Locator, expect

from tests.system.browser import Visit, find_chromium, open_page
from tests.system.live import Live, run_live

TEXTS = [topics["typesseq-mutable"][:1_500], topics["specialnames"][:1_500]]
PATIENCE_MS = 120_000
PATIENCE_S = 120

_OVERFLOWING = """
() => [...document.querySelectorAll('html, .panel .scroll, dialog, dialog form, dialog .choices')]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => `${box.tagName} ${box.className}: ${box.scrollWidth} > ${box.clientWidth}`)
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]


@pytest.fixture
def server(own_data: Path) -> Iterator[Live]:
    with run_live(own_data) as live:
        yield live


@pytest.fixture
def visit(server: Live) -> Iterator[Visit]:
    with open_page(server.url) as visit:
        visit.page.set_default_timeout(60_000)
        yield visit


def test_a_version_is_published_adopted_elsewhere_and_withdrawn(server: Live, visit: Visit) -> None:
    page = visit.page
    _go(visit, server, _learn(server, TEXTS[:1]))
    _publish(visit, 1, "rivers")
    expect(_item(visit, 1).get_by_test_id("version-published")).to_contain_text("rivers")
    _publish(visit, 1, "rivers")
    expect(page.get_by_test_id("publish-problem")).to_contain_text("is published already")
    page.keyboard.press("Escape")
    _go(visit, server, server.create_session())
    _adopt(visit, "rivers")
    adopted = _item(visit, 1)
    expect(adopted).to_have_attribute("data-current", "true")
    expect(adopted.get_by_test_id("version-note")).to_contain_text("adopted from “rivers”")
    _take_back(visit)
    expect(_item(visit, 0)).to_have_attribute("data-current", "true")
    page.get_by_test_id("show-published").click()
    page.get_by_test_id("withdraw").click()
    page.get_by_test_id("confirm-yes").click()
    expect(page.get_by_test_id("published-empty")).to_be_visible()
    page.keyboard.press("Escape")
    assert server.client.get("/v1/published").json()["data"] == []
    expect(adopted).to_be_visible()  # copies stay
    # The browser itself tells of the name that was taken.
    assert [text for text in visit.complaints if "409" not in text] == []


def test_versions_are_merged_at_a_loss_that_is_told_and_taken_back(
    server: Live, visit: Visit
) -> None:
    page = visit.page
    other = _learn(server, TEXTS[1:])
    session = _learn(server, TEXTS)
    _go(visit, server, session)
    page.get_by_test_id("merge-versions").click()
    _choose(visit, "/1").click()
    expect(page.get_by_test_id("merge-go")).to_be_disabled()
    page.get_by_test_id("merge-other").select_option(other)
    _choose(visit, f"{other}/1").click()
    page.get_by_test_id("merge-mean").click()
    weights = page.get_by_test_id("merge-weight")
    assert [weights.nth(at).input_value() for at in range(2)] == ["0.5", "0.5"]
    page.get_by_test_id("merge-rank").fill("1")
    page.get_by_test_id("merge-go").click()
    expect(page.get_by_test_id("merge")).to_have_count(0, timeout=PATIENCE_MS)
    made = server.client.get(f"/v1/sessions/{session}/versions/3").json()
    (lost,) = [note for note in made["notes"] if note["code"] == "compressed"]
    assert 0.001 < lost["loss"] < 1
    expect(page.get_by_test_id("toast").last).to_contain_text(f"lost {lost['loss']:.2%} of the sum")
    note = _item(visit, 3).get_by_test_id("version-note")
    expect(note).to_contain_text(f"to 1, which lost {lost['loss']:.2%} of it")
    _take_back(visit)
    expect(_item(visit, 2)).to_have_attribute("data-current", "true")
    assert server.client.get(f"/v1/sessions/{session}").json()["version"] == 2
    assert visit.complaints == []


def test_a_merge_that_fails_says_why_and_can_be_mended(server: Live, visit: Visit) -> None:
    page = visit.page
    session = _learn(server, TEXTS)
    _go(visit, server, session)
    page.get_by_test_id("merge-versions").click()
    _choose(visit, "/1").click()
    _choose(visit, "/2").click()
    server.client.delete(f"/v1/sessions/{session}/versions/1")
    page.get_by_test_id("merge-go").click()
    expect(page.get_by_test_id("merge-problem")).to_contain_text("no version 1")
    # What is gone is no longer offered.
    expect(_choose(visit, "/1")).to_have_count(0)
    expect(page.get_by_test_id("merge-go")).to_be_disabled()
    assert server.client.get(f"/v1/sessions/{session}").json()["version"] == 2


@pytest.mark.parametrize("language", ["en-GB", "zh-CN"])
def test_everything_fits_and_is_told_in_the_language_of_the_page(
    server: Live, language: str
) -> None:
    session = _learn(server, TEXTS)
    path = f"/v1/sessions/{session}/versions"
    name = "a" * 64
    assert server.client.post(f"{path}/1/publish", json={"name": name}).status_code == 201
    assert server.client.post(f"{path}/adopt", json={"published": name}).status_code == 201
    parts = {"parts": [{"version": "1"}, {"version": "2", "weight": -0.5}], "rank": 1}
    assert server.client.post(f"{path}/merge", json=parts).status_code == 201
    chinese = language == "zh-CN"
    for width in (1280, 390):
        for dark in (False, True):
            with open_page(server.url, width=width, dark=dark, language=language) as visit:
                _go(visit, server, session)
                _look_at_notes(visit, chinese=chinese, name=name)
                _look_at_dialogs(visit)
                assert visit.complaints == [], (width, dark)


def _look_at_notes(visit: Visit, *, chinese: bool, name: str) -> None:
    adopted = f"采用自“{name}”" if chinese else f"adopted from “{name}”"
    expect(_item(visit, 3).get_by_test_id("version-note")).to_contain_text(adopted)
    lost = re.compile("秩从 .* 压缩到 1，损失" if chinese else "compressed from rank .* to 1")
    expect(_item(visit, 4).get_by_test_id("version-note")).to_contain_text(lost)
    if chinese:
        for note in visit.page.get_by_test_id("version-note").all_inner_texts():
            assert re.search(r"[A-Za-z]+ [A-Za-z]+", note) is None, note
    _assert_fits(visit)


def _look_at_dialogs(visit: Visit) -> None:
    page = visit.page
    _item(visit, 1).get_by_test_id("version-more").click()
    _item(visit, 1).get_by_test_id("withdraw-version").scroll_into_view_if_needed()
    _assert_fits(visit)
    _item(visit, 1).get_by_test_id("publish-version").click()
    expect(page.get_by_test_id("publish")).to_be_visible()
    _assert_fits(visit)
    page.keyboard.press("Escape")
    page.get_by_test_id("show-published").click()
    expect(page.get_by_test_id("publication")).to_have_count(1)
    _assert_fits(visit)
    page.keyboard.press("Escape")
    page.get_by_test_id("merge-versions").click()
    for key in ("/1", "/2"):
        _choose(visit, key).click()
    _assert_fits(visit)
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("merge")).to_have_count(0)


def _assert_fits(visit: Visit) -> None:
    assert visit.page.evaluate(_OVERFLOWING) == []


def _learn(server: Live, texts: list[str]) -> str:
    """Begin a session that has learned a version of each text."""
    session = server.create_session()
    for number, text in enumerate(texts, start=1):
        body = {"name": f"{number}.txt", "text": text}
        server.client.post(f"/v1/sessions/{session}/readings", json=body)
        deadline = time.monotonic() + PATIENCE_S
        while server.client.get(f"/v1/sessions/{session}").json()["version"] != number:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    return session


def _go(visit: Visit, server: Live, session: str) -> None:
    visit.page.goto(f"{server.url}/#/s/{session}")
    visit.page.reload()  # where only the part behind # differs, nothing would be loaded
    panel = visit.page.get_by_test_id("panel")
    expect(visit.page.get_by_test_id("composer")).to_be_visible()
    if not panel.is_visible():
        visit.page.get_by_test_id("panel-toggle").click()
    expect(panel).to_be_visible()
    expect(_item(visit, 0)).to_be_visible()


def _item(visit: Visit, number: int) -> Locator:
    return visit.page.locator(f'[data-testid="version-item"][data-version="{number}"]')


def _choose(visit: Visit, key: str) -> Locator:
    choice = visit.page.locator(f'[data-testid="merge-choice"][data-key="{key}"]')
    return choice.locator('input[type="checkbox"]')


def _publish(visit: Visit, number: int, name: str) -> None:
    publish = _item(visit, number).get_by_test_id("publish-version")
    if not publish.is_visible():
        _item(visit, number).get_by_test_id("version-more").click()
    publish.click()
    visit.page.get_by_test_id("publish-name").fill(name)
    visit.page.get_by_test_id("publish-go").click()


def _adopt(visit: Visit, name: str) -> None:
    visit.page.get_by_test_id("show-published").click()
    row = visit.page.locator(f'[data-testid="publication"][data-name="{name}"]')
    row.get_by_test_id("adopt").click()
    expect(visit.page.get_by_test_id("published")).to_have_count(0)


def _take_back(visit: Visit) -> None:
    visit.page.get_by_test_id("toast").last.get_by_text("Take back").click()
