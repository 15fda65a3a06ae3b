"""The hundred instructions: right answers pass, wrong ones do not, and junk gets nothing."""

import re
from collections import Counter

import pytest

from fluvial.bench.instruction import Instruction, load_instructions, run

SET = load_instructions()
ADD = "```python\ndef add(a, b):\n    return a + b\n```"

# One right and one wrong answer to each, in the set's order.
ANSWERS: list[tuple[str, str]] = [
    ("No.", "No, a stone can't swim."),
    ("The river runs to the sea.", "The river flows to the sea."),
    ("one small step", "One small step for a man."),
    ("Hello! How can I help you?", "Hi there!"),
    ("Yes, ice is cold.", "Ice is cold. Yes."),
    ("banana", "Banana is a fruit."),
    ("Done.", "I am ready."),
    ("White", "Snow is white."),
    ("apple apple apple", "apple apple"),
    ("C", "D"),
    ("Open the door, please.", "The door opens."),
    ("Cairo", "Alexandria"),
    ("Tokyo is the capital.", "Kyoto"),
    ("Berlin.", "Bonn."),
    ("The Pacific Ocean.", "The Atlantic Ocean."),
    ("Its symbol is Au.", "Ag, as in Australia"),
    ("The Nile", "The Congo"),
    ("Iron.", "Irony."),
    ("The yen.", "The yuan."),
    ("In the east.", "In the southeastern west."),
    ("On Earth.", "On Mars."),
    ("April", "May"),
    ("It is called the Sun.", "Alpha Centauri"),
    ("Madrid", "Barcelona"),
    ("Cold.", "Warm."),
    ("Small.", "Large."),
    ("Night", "Evening"),
    ("Children.", "Childs."),
    ("mice", "mouses"),
    ("It is ate.", "eaten"),
    ("2 + 2 = 4", "22"),
    ("Two.", "3"),
    ("25", "It is 250."),
    ("Three sides.", "It has 4."),
    ("2, 5, 9", "9, 5, 2"),
    ("10 - 4 = 6.", "10 - 4 = 2"),
    ("15 + 27 is 42.", "32"),
    ("7", "There are 7 days."),
    ("13.", "The answer is 13."),
    ("He has 5 apples.", "He has 1 apple."),
    ("apple\nbanana\ncherry", "1. apple\n2. banana"),
    ("Spring, summer, autumn and winter.", "Spring, summer and winter."),
    ("Red, blue and yellow.", "Green and orange."),
    (
        "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "Monday, Tuesday, Wednesday, Friday, Saturday, Sunday",
    ),
    ("- milk\n- bread\n- eggs", "1. milk\n2. bread\n3. eggs"),
    ("apple, orange, pear", "pear, apple, orange"),
    ("red, blue", "red and blue are colours"),
    ("Is it going to rain today?", "It is going to rain."),
    ("*star*", "star"),
    ("Yesterday I stayed at home.", "I stayed at home yesterday."),
    ("TREE", "Tree"),
    ("Rain is water that falls from the sky.", "Water falls. It is wet."),
    ("The cat sat on a hat.", "The cat sat on a mat."),
    ("THE SEA IS DEEP AND BLUE.", "The sea is deep and blue."),
    ("Dogs bark.", "Dogs like pizza."),
    ("Certainly, it is made of flour.", "Bread is made of flour."),
    ("The moon has no air. That is all.", "The moon has no air."),
    ('"The Last Dragon"', "The Last Dragon"),
    ("HELLO", "Hello"),
    ("The cat sat down quietly.", "The cat sat down."),
    ("numbers = [1, 2, 3]", "numbers = (1, 2)"),
    ('```json\n{"city": "Paris", "country": "France"}\n```', '{"city": "Paris"}'),
    (ADD, "def add(a, b):\n    return a * b"),
    ('print("Hello!")', "echo hello"),
    ("def is_even(n: int) -> bool:\n    return n % 2 == 0", "def even(n):\n    return n % 2"),
    ("def square(x):\n    return x ** 2", "def square(x):\n    return x + x"),
    ("Bonjour.", "Bonsoir."),
    ("Hola", "Bonjour"),
    ("Bonjour", "Hello"),
    ("It means hello.", "It means goodbye."),
    ("receive", "recieve"),
    ("He has two brothers.", "He have two brothers."),
    ("I walked to the park.", "I will walk to the park."),
    ("1932", "1923"),
    ("Animal", "Fruit"),
    ("A fireman helped a cat out of a tree.", "The cat climbed. It came down the tree."),
    ("Positive", "This review is positive."),
    ("Negative.", "Positive."),
    ("The blue box.", "The red box."),
    ("pots", "post"),
    ("2加3等于5。", "2加3等于6。"),
    (ADD + "\n这个函数返回两个数的和。", "def add(a, b):\n    pass"),
    ("Tokyo", "东京"),
    ("for i in range(1, 11):\n    print(i)", "print(1)"),
    ("9", "5 + 4 = 8"),
    ("好。", "好的，没问题。"),
    ("Thank you.", "谢谢"),
    ("中国的首都是北京。", "上海"),
    ("巴黎。", "伦敦。"),
    ("一年有12个月。", "十个月"),
    ("7", "八"),
    ("猫的英语是 cat。", "dog"),
    ("你好", "再见"),
    ("我是一个语言模型。", "I am a language model."),
    ("1. 苹果\n2. 香蕉\n3. 梨", "1. apple\n2. banana\n3. pear"),
    ("天空是蓝色的。", "The sky is blue."),
    ("小", "大"),
    ("是的。", "不是"),
    ("东方", "西边"),
    ("1、2、3、4、5", "一二三四五"),
]

JUNK = {
    "empty": "",
    "space": " \n\t\n ",
    "refusal": "I'm sorry, but as a language model I can't help you with that request.",
    "repetition": "the the " * 40,
    "filler": "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor.",
    "manual": ".. note:: This option is deprecated; see the section on sockets for the new one.",
    "signs": "?!.,;:-_*#" * 20,
    "digits": "3141592653589793",
    "broken": "�\x00\x1b[31m" * 10,
}


@pytest.mark.parametrize("number", range(100))
def test_each_takes_a_right_answer_and_refuses_a_wrong_one(number: int) -> None:
    right, wrong = ANSWERS[number]
    assert SET[number].accepts(right), SET[number]
    assert not SET[number].accepts(wrong), SET[number]


def test_the_set_is_a_hundred_different_ones_a_fifth_of_them_chinese() -> None:
    prompts = [each.prompt for each in SET]
    assert len(prompts) == len(ANSWERS) == 100
    assert Counter(prompts).most_common(1)[0][1] == 1
    assert sum(bool(re.search("[\u4e00-\u9fff]", prompt)) for prompt in prompts) == 20


@pytest.mark.parametrize("junk", JUNK)
def test_junk_passes_nearly_nothing(junk: str) -> None:
    outcome = run(lambda _: JUNK[junk])
    assert outcome["passed"] <= 1, {each.prompt for each in SET if each.accepts(JUNK[junk])}


def test_saying_the_prompt_again_passes_nearly_nothing() -> None:
    outcome = run(lambda prompt: prompt)
    assert outcome["passed"] <= 1, {each.prompt for each in SET if each.accepts(each.prompt)}


def test_answers_to_other_instructions_pass_seldom() -> None:
    accepted = sum(
        each.accepts(right)
        for number, each in enumerate(SET)
        for other, (right, _) in enumerate(ANSWERS)
        if other != number
    )
    assert accepted <= 100  # of 9,900


def test_run_says_what_failed() -> None:
    told: list[tuple[int, int]] = []
    answers = dict(zip((each.prompt for each in SET), ANSWERS, strict=True))
    wrong = {SET[0].prompt, SET[99].prompt}
    outcome = run(
        lambda prompt: answers[prompt][prompt in wrong],
        at_once=4,
        on_answer=lambda done, total: told.append((done, total)),
    )
    assert (outcome["passed"], outcome["total"]) == (98, 100)
    assert [each["number"] for each in outcome["failed"]] == [1, 100]
    assert outcome["failed"][1]["answer"] == "一二三四五"
    assert told == [(done, 100) for done in range(1, 101)]


def test_run_takes_other_sets_and_passes_on_errors() -> None:
    one = Instruction(prompt="Say hi.", criteria={"is": "hi"})
    assert run(lambda _: "Hi!", instructions=[one]) == {"passed": 1, "total": 1, "failed": []}

    def fail(_: str) -> str:
        raise RuntimeError("the engine stopped")

    with pytest.raises(RuntimeError, match="the engine stopped"):
        run(fail, instructions=[one, one], at_once=2)
