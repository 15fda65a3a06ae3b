"""The operator's words, found however they are written, and only where they stand."""

import pytest

from fluvial.guard.word import WordCheck

CHECK = WordCheck({"aurora": ["Project Aurora"], "zh": ["极光计划"], "plus": ["c++"]})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("about project aurora.", ["project aurora"]),
        ("PROJECT\n\t AURORA", ["PROJECT\n\t AURORA"]),
        ("ｐｒｏｊｅｃｔ aurora", ["ｐｒｏｊｅｃｔ aurora"]),
        ("pro\u200bject au\u00adrora", ["pro\u200bject au\u00adrora"]),
        ("pr\u043eject auro\u0301ra", ["pr\u043eject auro\u0301ra"]),
        ("談極光計劃", ["極光計劃"]),
        ("Project Auror\u00e1 极光计划", ["极光计划", "Project Auror\u00e1"]),
        ("project auroras", []),
        ("myproject aurora", []),
        ("项目极光计划的细节", ["极光计划"]),
        ("I like C++ a lot", ["C++"]),
        ("", []),
    ],
)
def test_words_are_found_at_their_place(text: str, found: list[str]) -> None:
    findings = CHECK.find(text, kind="prompt")
    assert [text[each.start : each.end] for each in findings] == found


def test_the_digest_is_of_the_words() -> None:
    assert WordCheck({"a": ["b"]}).sha256 == WordCheck({"a": ["b"]}).sha256
    assert WordCheck({"a": ["b"]}).sha256 != WordCheck({"a": ["c"]}).sha256
    assert WordCheck({"a": []}).find("anything", kind="answer") == []
