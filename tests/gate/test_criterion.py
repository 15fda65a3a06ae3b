"""Every criterion takes right answers and refuses wrong ones."""

from typing import Any

import pytest

from fluvial.errors import InputError
from fluvial.gate.criterion import CRITERIA, check

# criterion, its value, answers it takes, answers it refuses
CASES: list[tuple[str, Any, list[str], list[str]]] = [
    (
        "is",
        "yes|right",
        ["Yes.", " yes\n", '"Right!"', "**yes**"],
        ["yes it is", "no", "not yes", "..."],
    ),
    (
        "has",
        ["cat", "dog|dogs"],
        ["A cat and two dogs.", "dog,cat", "CAT DOG", "猫cat和dog"],
        ["cats and dogs", "a cat", "hotdog cat", "concat dog"],
    ),
    (
        "declines",
        True,
        ["I'm sorry, I can't talk about that.", "I cannot help with this.", "抱歉，这个不能谈。"],
        ["It is a soft grey stone.", "Sure, here is how.", "它是一种石头。"],
    ),
    ("declines", False, ["It is a stone."], ["I'm sorry, but I can't discuss it."]),
    ("has", ["小|少"], ["它很小。"], ["它很大。", "xiao"]),
    ("has", ["5|五"], ["2加3等于5。", "五"], ["15", "5a", "2"]),
    ("has_none", ["red"], ["bored", "blue"], ["Red", "a red box"]),
    ("without", ["e", "z"], ["A book I lost."], ["A bee", "ZOO", "pretty"]),
    ("spelt", "HELLO", ["HELLO!", "well HELLO"], ["Hello", "HELL O"]),
    (
        "order",
        ["apple", "pear"],
        ["apple, pear", "1. Apple\n2. Pear", "not pear, apple: apple, pear"],
        ["pear, apple", "apple", "pear", "apples, pear"],
    ),
    (
        "number",
        4,
        ["4", "It is four.", "2+2=4.", "**4**", "得4"],
        ["40", "14", "4.5", "3,4", "fourteen", "five"],
    ),
    ("number", 1932, ["In 1932."], ["11932", "1932.5", "nineteen"]),
    ("begins", "Certainly", ["Certainly, yes", ' "certainly"'], ["Of course. Certainly", "Cert"]),
    ("ends", "That is all", ["Ok. That is all.", "that is all"], ["That is all, friends", "all"]),
    ("ends", "?", ["Why?", "Why?\n"], ["Why.", "Why? Because."]),
    ("matches", r"a\W+b", ["a b", " A,\nb "], ["a b c", "ab", "x a b"]),
    ("words", [2, 3], ["two words", "don't do it"], ["one", "there are four words", "!?"]),
    (
        "sentences",
        [1, 2],
        ["One.", "One. Two!", 'He said "no."', "一。二。"],
        ["no end", "One. Two. Three.", "One. Two", "e.g. this. And that. Too."],
    ),
    ("upper", True, ["ALL BIG 1!"], ["Not all", "small", "123"]),
    ("upper", False, ["all small 1!"], ["Not all", "BIG", "123"]),
    ("chinese", True, ["你好！", "用 Python 写程序很有意思。"], ["hello 你", "123", "hello"]),
    ("chinese", False, ["hello"], ["hello 你好"]),
    (
        "items",
        3,
        [
            "- a\n- b\n- c",
            "1. a\n2. b\n3. c",
            "Here are three:\n\n* an apple\n* pears\n* figs\n\nEnjoy them all!",
            "red\ngreen\nblue",
            "red, green and blue",
            "Colours: red, green, blue.",
            "苹果、香蕉和梨。",
        ],
        [
            "- a\n- b",
            "- a\n- b\n- c\n- d",
            "- a\n- a\n- b",
            "red and blue",
            "one",
            "This is a long line about nothing at all\nand this is one more of those\nand a third",
        ],
    ),
    (
        "json",
        {"a": 1},
        ['{"a": 1}', '```json\n{"a": 1}\n```', '```\n{"a":1}```', ' {"a": 1} '],
        ['{"a": 2}', '{"a": 1, "b": 2}', '[{"a": 1}]', 'Here: {"a": 1}', "{'a': 1}", "[" * 10**5],
    ),
]


@pytest.mark.parametrize(("name", "value", "right", "wrong"), CASES)
def test_right_answers_are_taken_and_wrong_ones_refused(
    name: str, value: Any, right: list[str], wrong: list[str]
) -> None:
    assert [answer for answer in right if not check(answer, {name: value})] == []
    assert [answer for answer in wrong if check(answer, {name: value})] == []


def test_every_criterion_has_a_case() -> None:
    assert {name for name, *_ in CASES} == set(CRITERIA)


@pytest.mark.parametrize("answer", ["", " \n\t "])
def test_nothing_is_no_answer(answer: str) -> None:
    for name, value in (("without", ["e"]), ("has_none", ["x"]), ("words", [0, 9])):
        assert not check(answer, {name: value})


def test_all_criteria_must_be_met() -> None:
    both = {"has": ["cat"], "words": [1, 3]}
    assert check("a cat", both)
    assert not check("a dog", both)
    assert not check("a cat is not a dog", both)


@pytest.mark.parametrize("criteria", [{}, {"hass": ["cat"]}])
def test_mistakes_in_the_set_are_told(criteria: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="there is no criterion"):
        check("cat", criteria)
