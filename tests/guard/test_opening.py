"""The guard as it ships: it opens from the settings, and leaves ordinary text alone."""

import random
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from fluvial.config import load
from fluvial.errors import InputError
from fluvial.guard.guard import Guard
from fluvial.guard.opening import load_policy, open_guard
from fluvial.types import Message
from tests.guard.world import POLICY

KEY = "sk-proj-" + "abcdefghijklmnopqrstuvwxyz0123456789ABCD"


@pytest.fixture(scope="module")
def shipped() -> Guard:
    return open_guard(load_policy(load()))


def test_settings_name_the_policy_and_go_over_its_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY, encoding="utf-8")
    monkeypatch.setenv("FLUVIAL_GUARD_POLICY", str(file))
    monkeypatch.setenv("FLUVIAL_GUARD_WINDOW_TOKENS", "9")
    policy = load_policy(load(overrides={"guard_delay_ms": 77}))
    hold = policy.hold
    assert (hold.window_tokens, hold.delay_ms, hold.every_tokens) == (9, 77, 2)
    assert open_guard(policy).check_prompt([Message(role="user", content="aurora")]).category == (
        "aurora"
    )


def test_there_is_no_setting_to_stream_first() -> None:
    with pytest.raises(InputError, match="stream_first"):
        load(overrides={"stream_first": True})
    with pytest.raises(InputError, match="guard"):
        load(overrides={"guard": "later"})


def test_the_babble_of_a_random_model_is_left_alone(shipped: Guard) -> None:
    rng = random.Random(5)
    for size in (20, 200, 900):
        for _ in range(8):
            text = rng.randbytes(size).decode("utf-8", "replace")
            assert shipped.rule(shipped.find(text, place="answer"), place="answer") == []


@pytest.mark.parametrize("name", ["typesseq-mutable", "specialnames", "assert", "numbers"])
def test_manuals_are_left_alone_as_answers(shipped: Guard, name: str) -> None:
    text = topics[name][:4000]
    assert shipped.rule(shipped.find(text, place="answer"), place="answer") == []


def test_a_key_is_masked_in_answers_and_flagged_in_prompts(shipped: Guard) -> None:
    (ruling,) = shipped.rule(shipped.find(f"use {KEY} now", place="answer"), place="answer")
    assert (ruling.action, ruling.category) == ("redact", "secret")
    decision = shipped.check_prompt([Message(role="user", content=f"My key is {KEY}")])
    assert (decision.action, decision.flags) == ("flag", ("secret",))


def test_people_may_write_letters_with_addresses(shipped: Guard) -> None:
    text = "Write to Ada at ada@example.com or call +44 20 7946 0958."
    assert shipped.check_prompt([Message(role="user", content=text)]).action == "allow"
    assert shipped.rule(shipped.find(text, place="answer"), place="answer") == []
