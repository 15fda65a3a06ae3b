"""Secrets and personal data are found with their places, in both languages, in linear time."""

import time

import pytest

from fluvial.errors import GuardError
from fluvial.guard.pattern import MAX_CHARS, OVERLAP_CHARS, WINDOW_CHARS, PatternCheck

CHECK = PatternCheck()


def see(text: str) -> list[tuple[str, str]]:
    return [
        (each.category, text[each.start : each.end]) for each in CHECK.find(text, kind="prompt")
    ]


@pytest.mark.parametrize(
    ("text", "category", "value"),
    [
        ("write to jane.doe+x@example.co.uk.", "email", "jane.doe+x@example.co.uk"),
        ("请写信到zhang@example.cn谢谢", "email", "zhang@example.cn"),
        ("ring +44 20 7946 0958 today", "phone", "+44 20 7946 0958"),
        ("call (202) 456-1111", "phone", "(202) 456-1111"),
        ("我的手机是13812345678，谢谢", "phone", "13812345678"),
        ("手机１３８１２３４５６７８", "phone", "１３８１２３４５６７８"),
        ("card 4111 1111 1111 1111 ok", "card", "4111 1111 1111 1111"),
        ("pay to DE89 3704 0044 0532 0130 00.", "iban", "DE89 3704 0044 0532 0130 00"),
        ("身份证11010519491231002X号", "national_id", "11010519491231002X"),
        ("SSN 536-90-4399", "national_id", "536-90-4399"),
        ("key AKIAIOSFODNN7EXAMPLE", "secret", "AKIAIOSFODNN7EXAMPLE"),
        ("see https://joe:s3cretpw@example.com/", "secret", "s3cretpw"),
        ("my password is Hunter2!x", "secret", "Hunter2!x"),
        ("密码：abc12345", "secret", "abc12345"),
    ],
)
def test_finds_each_kind_where_it_is(text: str, category: str, value: str) -> None:
    assert see(text) == [(category, value)]


@pytest.mark.parametrize(
    "text",
    [
        "On 2026-11-22 at 10:30 we counted 1234567890 items.",
        "version 10.2.3.4, pi is 3.14159265358979323846",
        "card 4111 1111 1111 1112",  # its check digit is wrong
        "身份证110105194912310021",
        "DE88 3704 0044 0532 0130 00",
        "The password is required, the token is missing.",
        "ISBN 978-3-16-148410-0",
    ],
)
def test_leaves_what_only_looks_like_it(text: str) -> None:
    assert see(text) == []


def test_takes_a_whole_private_key() -> None:
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIabc\n" * 200 + "-----END PRIVATE KEY-----"
    assert see(f"here: {key} thanks") == [("secret", key)]


def test_finds_what_lies_across_windows() -> None:
    for shift in range(-30, 5, 7):
        text = "x " * ((WINDOW_CHARS + shift) // 2) + "jane@example.org" + " y" * OVERLAP_CHARS
        assert see(text) == [("email", "jane@example.org")]


def test_sees_through_invisible_characters() -> None:
    text = "mail ja\u200bne@exam\u2060ple.org now"
    assert see(text) == [("email", "ja\u200bne@exam\u2060ple.org")]


@pytest.mark.parametrize(
    "piece", ["1", "a@", "eyJ", "+1 ", "'", "//", "aws", "password is ", "(1)"]
)
def test_a_hostile_line_costs_linear_time(piece: str) -> None:
    def measure(chars: int) -> float:
        text = piece * (chars // len(piece))
        begin = time.process_time()
        CHECK.find(text, kind="prompt")
        return time.process_time() - begin

    measure(1000)
    small, large = measure(60_000), measure(480_000)
    assert large < 8 * 4 * small + 0.5


@pytest.mark.parametrize("piece", ["sk-", "sk-aaaaaaaaaaaaaaaaaaaa", "://a:", "eyJ.", "AKC"])
def test_no_line_holds_everything_else_up(piece: str) -> None:
    """One match can't be interrupted: what is hostile must cost about what is plain."""

    def measure(piece: str) -> float:
        text = (piece * WINDOW_CHARS)[:WINDOW_CHARS]
        times: list[float] = []
        for _ in range(4):
            begin = time.thread_time()
            CHECK.find(text, kind="prompt")
            times.append(time.thread_time() - begin)
        return min(times)

    assert measure(piece) < 4 * measure("plain words of bread ") + 0.002


def test_refuses_what_is_too_long() -> None:
    with pytest.raises(GuardError, match="characters"):
        CHECK.find("a" * (MAX_CHARS + 1), kind="answer")


def test_its_digest_tells_settings_apart() -> None:
    assert CHECK.sha256 == PatternCheck().sha256
    assert CHECK.sha256 != PatternCheck(regions=("FR",)).sha256
