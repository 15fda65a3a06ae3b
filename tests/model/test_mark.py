"""Finding special tokens: as a regular expression of all of them would, but in bounded work."""

import re

from hypothesis import given
from hypothesis import strategies as st

from fluvial.model.mark import MarkFinder

MARKS = st.lists(st.text("<|ab>", min_size=1, max_size=6), max_size=12)


@given(MARKS, st.text("<|ab> ", max_size=60))
def test_the_longest_is_found_from_left_to_right(marks: list[str], text: str) -> None:
    longest_first = sorted(marks, key=len, reverse=True)
    every = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    expected = [match.span() for match in every.finditer(text)]
    assert list(MarkFinder(marks).find(text)) == expected


def test_characters_that_mean_something_in_expressions_are_only_characters() -> None:
    assert list(MarkFinder(["]", "^-", "\\d"]).find("a]^-\\d5")) == [(1, 2), (2, 4), (4, 6)]


class Counted(str):
    """A text that counts how often one of its characters was looked at."""

    looks = 0

    def __getitem__(self, key: object) -> str:
        type(self).looks += 1
        return super().__getitem__(key)  # type: ignore[index]


def test_thousands_of_tokens_that_begin_alike_cost_no_more_than_one() -> None:
    text = Counted("<" * 5000)
    marks = [f"<{index}>" for index in range(8000)]
    assert list(MarkFinder(marks).find(text)) == []
    assert Counted.looks <= 2 * len(text)
