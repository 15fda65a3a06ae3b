"""The badge that says whether what is served was released: in a real browser, tiny model."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from fluvial.gate import key
from fluvial.gate.result import Adaptation
from fluvial.gate.signing import sign
from tests.gate.made import make_plan, make_results, make_risk
from tests.system.browser import find_chromium, open_page
from tests.system.live import Live, run_live

PATIENCE_MS = 60_000
WIDTHS = [(1280, 860), (390, 844)]

_OVERFLOWING = """
() => [...document.querySelectorAll('html, header, dialog, dialog form')]
  .filter((box) => box.scrollWidth > box.clientWidth)
  .map((box) => `${box.tagName} ${box.className}: ${box.scrollWidth} > ${box.clientWidth}`)
"""

_CONTRAST = """
(element) => {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const light = (colour) => {
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const style = getComputedStyle(element);
  const pair = [light(style.color), light(style.backgroundColor)].sort((a, b) => b - a);
  return (pair[0] + 0.05) / (pair[1] + 0.05);
}
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]


@pytest.fixture
def released(own_data: Path, tmp_path: Path) -> Iterator[Live]:
    """A server in production, under a release of what it loads."""
    with run_live(own_data) as live:
        told = live.client.get("/v1/models").json()["data"][0]["fluvial"]
    public = key.generate(tmp_path / "key")
    results = make_results(
        make_plan(make_risk()),
        subjects=told["subjects"],
        adaptation=Adaptation(drift_budget=told["adaptation"]["drift_budget"]),
    )
    signer = key.load_private(tmp_path / "key")
    envelope = sign(results, signer=signer, now=time.time(), days=30)
    (tmp_path / "release.json").write_bytes(envelope)
    options = ("--mode", "production", "--release", str(tmp_path / "release.json"))
    with run_live(own_data, *options, "--release-key", str(public)) as live:
        yield live


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), WIDTHS)
@pytest.mark.parametrize(
    ("language", "badge", "words"),
    [("en-GB", "Not released", "on its own machine only"), ("zh-CN", "未发布", "只在本机上应答")],
)
def test_what_is_not_released_says_so_and_why(
    live: Live, language: str, badge: str, words: str, width: int, height: int, dark: bool
) -> None:
    given = {"language": language, "width": width, "height": height, "dark": dark}
    with open_page(live.url, **given) as visit:
        page = visit.page
        expect(page.get_by_test_id("release-badge")).to_have_text(badge, timeout=PATIENCE_MS)
        _check_look(page)
        dialog = _open(page)
        expect(dialog).to_contain_text(words)
        served = live.client.get("/healthz").json()["subjects"]
        for name, digest in served.items():
            subject = dialog.locator(f'[data-testid="release-subject"][data-name="{name}"]')
            expect(subject).to_have_text(digest)
        _check_look(page)
        page.keyboard.press("Escape")
        expect(dialog).to_have_count(0)
        assert visit.complaints == []


def test_what_is_released_says_until_when_and_that_it_ended(released: Live) -> None:
    year = time.localtime(time.time() + 30 * 86_400).tm_year
    with open_page(released.url) as visit:
        page = visit.page
        badge = page.get_by_test_id("release-badge")
        expect(badge).to_have_text(re.compile(f"Released until .*{year}"), timeout=PATIENCE_MS)
        _check_look(page)
        dialog = _open(page)
        expect(dialog).to_contain_text("passed every risk of the plan “small”")
        page.keyboard.press("Escape")
        page.set_viewport_size({"width": 390, "height": 844})
        expect(badge).to_have_text("Released")
        expect(badge).to_have_attribute("aria-label", re.compile("Released until"))
        _check_look(page)
        _end_release(page)
        expect(badge).to_have_text("Release expired", timeout=PATIENCE_MS)
        expect(_open(page)).to_contain_text("it answers no longer")
        assert visit.complaints == []


def _open(page: Page) -> Locator:
    page.get_by_test_id("release-badge").click()
    dialog = page.get_by_test_id("release")
    expect(dialog).to_be_visible()
    return dialog


def _check_look(page: Page) -> None:
    assert page.evaluate(_OVERFLOWING) == []
    assert page.get_by_test_id("release-badge").evaluate(_CONTRAST) >= 4.5


def _end_release(page: Page) -> None:
    """Have the server's health say from now on what it says after the release's end."""

    def end(route: Route) -> None:
        answer = route.fetch()
        told = answer.json()
        told["release"] |= {"status": "not released", "reason": "the release has expired"}
        route.fulfill(response=answer, json=told)

    page.route("**/healthz", end)
