"""Chinese and pinyin as English words."""

import pytest

from fluvial.guard.feature import split_words
from fluvial.guard.gloss import may_be_pinyin, open_dictionary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("怎么做红烧肉？", ["how", "to", "make", "red", "braised", "pork", "？"]),
        ("我的 router 坏", ["my", "router", "bad"]),
    ],
)
def test_glosses_word_by_word(text: str, words: list[str]) -> None:
    assert open_dictionary().gloss(split_words(text)) == words


def test_reads_pinyin_and_leaves_english_alone() -> None:
    assert open_dictionary().read_pinyin(["wo", "xiang", "xie", "yi", "ge"]) is not None
    english = ["please", "help", "me", "write", "a", "song"]
    assert not may_be_pinyin(english) or open_dictionary().read_pinyin(english) is None
    assert open_dictionary().read_pinyin(["wo", "hao"]) is None  # too short to tell
