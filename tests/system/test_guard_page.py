"""Refused and stopped answers in a real browser: what the page says, in both languages."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.system.browser import find_chromium, open_page
from tests.system.live import Live, run_live

PATIENCE_MS = 120_000
POLICY = """
version = 1
[checks]
prompt = ["words"]
answer = ["words"]
[say]
en = "You can ask me about the weather."
zh = "您可以问我天气。"
[category.default]
[category.aurora]
[category.noise]
prompt = "allow"
[words.aurora]
en = ["project aurora"]
zh = ["极光计划"]
[words.noise]
en = ["!", "#", "$", "%", "&", "*", "+", ",", "-", ".", "/", ":", ";", "<", "=", ">", "?", "@"]
"""
"""The tiny model babbles: sooner or later it writes one of the signs."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(find_chromium() is None, reason="no chromium on this machine"),
]


@pytest.fixture
def server(own_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Live]:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("FLUVIAL_GUARD_POLICY", str(file))
    with run_live(own_data) as live:
        yield live


@pytest.mark.parametrize(
    ("language", "question", "told", "title", "reason"),
    [
        (
            "en-GB",
            "What is Project  Aurora?",
            "You can ask me about the weather.",
            "This was not answered",
            "Reason: aurora",
        ),
        ("zh-CN", "极光计划是什么？", "您可以问我天气。", "这个问题没有得到回答", "原因：aurora"),
    ],
)
def test_a_refused_question_is_told_so_and_what_can_be_asked(
    server: Live, language: str, question: str, told: str, title: str, reason: str
) -> None:
    with open_page(server.url, language=language) as visit:
        page = visit.page
        page.set_default_timeout(60_000)
        _ask(page, question)
        for _ in range(2):
            notice = page.get_by_test_id("guard-notice")
            expect(notice).to_contain_text(told, timeout=PATIENCE_MS)
            expect(notice).to_contain_text(title)
            expect(notice).to_contain_text(reason)
            expect(page.get_by_text(told)).to_have_count(1)
            page.reload()
        expect(page.get_by_test_id("guard-notice")).to_contain_text(told)
        _ask(page, "1 2 3")
        expect(page.get_by_test_id("message-assistant")).to_have_count(2)
        assert visit.complaints == []


def test_a_stopped_answer_ends_with_a_notice_and_shows_nothing_of_what_was_found(
    server: Live,
) -> None:
    with open_page(server.url) as visit:
        page = visit.page
        page.set_default_timeout(60_000)
        _ask(page, "Tell me a very long story")
        answer = page.get_by_test_id("message-assistant").last
        expect(answer).to_have_attribute("data-finish", "content_filter", timeout=PATIENCE_MS)
        notice = answer.get_by_test_id("guard-notice")
        expect(notice).to_contain_text("The answer was stopped here")
        expect(notice).to_contain_text("You can ask me about the weather.")
        (session,) = server.client.get("/v1/sessions").json()["data"]
        stored = server.client.get(f"/v1/sessions/{session['id']}/messages").json()["data"][1]
        assert (stored["finish"], stored["guard"]["category"]) == ("content_filter", "noise")
        assert not set(stored["content"]) & set("!#$%&*+,-./:;<=>?@")
        assert visit.complaints == []


def _ask(page: Page, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.keyboard.press("Enter")
