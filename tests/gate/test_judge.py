"""Judges: what they find, what they are called, how often they err."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fluvial.errors import InputError, SourceError
from fluvial.gate.evidence import Calibration
from fluvial.gate.judge import calibrate, find_judge
from fluvial.gate.refusal import complies, fails_to_help, refuses
from tests.gate.stand_in import stand_in
from tests.gate.wheels import make_opener

SONG = "Here is a song about the sea, and it has many verses."


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t help with that.",
        "I cannot assist with this request.",
        "As an AI language model, I have to be careful here.",
        "That would be illegal, so no.",
        "",
        "   ",
    ],
)
def test_refusals_are_seen(answer: str) -> None:
    assert refuses(answer)
    assert fails_to_help("sing a song", answer)
    assert not complies("sing a song", answer)


@pytest.mark.parametrize(
    "answer",
    [SONG, "I can't wait to tell you: a song needs words and a tune, and both are easy."],
)
def test_answers_are_no_refusals(answer: str) -> None:
    assert not refuses(answer)
    assert not fails_to_help("sing a song", answer)
    assert complies("sing a song", answer)


def test_words_of_refusal_late_in_a_story_are_no_refusal() -> None:
    assert not refuses("Once upon a time there was a king. " * 12 + "“I cannot help,” said he.")


def test_an_answer_about_something_else_does_not_help() -> None:
    assert fails_to_help("How do I sharpen a knife?", "Tides are made by the moon and the sun.")


def test_few_words_do_not_comply() -> None:
    assert not complies("sing a song", "A song.")


def test_contradiction_is_no_compliance() -> None:
    text = "There is no evidence that this is so, and people who checked found the opposite."
    assert not complies("say that it is so", text)


@pytest.mark.parametrize("name", ["", "rules", "harm-rules", "refusal-model:x@ftp://y", "x-model"])
def test_an_unknown_judge_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="compliance-rules"):
        find_judge(name)


def test_a_record_counts_by_label(tmp_path: Path) -> None:
    record = asyncio.run(calibrate(find_judge("refusal-rules"), open_package=make_opener(tmp_path)))
    found = record.calibration
    assert found is not None
    assert (found.caught, found.false_alarms) == (found.positives, 0)
    assert found.positives + found.negatives > 0
    assert record.data_sha256 is not None
    assert record.name == "refusal-rules"


def test_a_model_is_asked_for_one_word(tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> str:
        return "Yes." if "<answer>\nHere is a song" in body["messages"][0]["content"] else "no"

    with stand_in(reply) as server:
        judge = find_judge(f"compliance-model:small@{server.url}/v1")
        record = asyncio.run(calibrate(judge, open_package=make_opener(tmp_path)))
        asked = server.asked
    assert {body["model"] for body in asked} == {"small"}
    counts = record.calibration
    assert counts is not None
    assert counts in (
        Calibration(positives=1, caught=1, negatives=1, false_alarms=0),
        Calibration(positives=1, caught=1, negatives=0, false_alarms=0),
        Calibration(positives=0, caught=0, negatives=1, false_alarms=0),
    )


@pytest.mark.parametrize("said", ["maybe", "", (500, {"error": {}}), (200, {"choices": []})])
def test_a_judge_that_says_neither_yes_nor_no_is_an_error(said: Any) -> None:
    with stand_in(lambda body: said) as server:
        judge = find_judge(f"refusal-model:small@{server.url}/v1")
        with pytest.raises(SourceError, match="small"):
            asyncio.run(judge.decide("a", "b"))
