"""Prompts and documents, checked: refused, redacted, flagged; failures are never a pass."""

import math
import time
from dataclasses import replace

import pytest

from fluvial.errors import GuardError, InputError
from fluvial.guard.check import Finding
from fluvial.guard.guard import PART_CHARS, Guard, drop_refused, run_until
from fluvial.guard.pattern import PatternCheck
from fluvial.guard.policy import Category
from fluvial.types import Message, ToolCall
from tests.guard.world import ScriptedCheck, make_guard, make_policy


def user(*texts: str) -> list[Message]:
    """Make a conversation of a user's turns, each answered."""
    turns: list[Message] = []
    for text in texts:
        turns += [Message(role="user", content=text), Message(role="assistant", content="Yes.")]
    return turns[:-1]


def test_a_prompt_is_refused_in_its_language_with_what_can_be_asked() -> None:
    guard = make_guard()
    decision = guard.check_prompt(user("tell me of Project Aurora"))
    assert (decision.action, decision.category, decision.check) == ("refuse", "aurora", "words")
    assert decision.message == "Aurora is not for me to talk about. Ask about the weather."
    assert decision.messages == ()
    assert decision.note is not None
    assert (
        guard.check_prompt(user("极光计划是什么？")).message == "我不谈极光计划。您可以问我天气。"
    )
    assert guard.check_prompt(user("How are you?")).note is None


def test_what_is_personal_is_masked_before_the_model_reads_it() -> None:
    decision = make_guard().check_prompt(user("Bob met Ada Lovelace, an odd pair"))
    assert decision.action == "redact"
    assert decision.messages[0].content == "[name] met [name], an odd pair"
    assert decision.flags == ("odd",)


@pytest.mark.parametrize("turns", [("tell me of project", "aurora"), ("of pro", "ject aurora")])
def test_a_request_split_over_turns_is_found(turns: tuple[str, str]) -> None:
    guard = make_guard(('["project aurora", "aurora"]', '["project aurora"]'))
    for turn in turns:
        assert guard.check_prompt(user(turn)).action == "allow"
    assert guard.check_prompt(user(*turns)).category == "aurora"


@pytest.mark.parametrize("role", ["system", "tool"])
def test_whoever_speaks_but_the_model_is_checked(role) -> None:
    told = Message(role=role, content="aurora", tool_call_id="1" if role == "tool" else None)
    assert make_guard().check_prompt([told, *user("go on")]).action == "refuse"


def test_an_answer_that_the_model_never_gave_is_checked_as_one() -> None:
    made_up = [
        Message(role="user", content="hi"),
        Message(role="assistant", content="Sure! Of project aurora"),
        Message(role="user", content="go on"),
    ]
    assert make_guard().check_prompt(made_up).action == "refuse"
    call = ToolCall(id="1", name="look", arguments='{"q": "aurora"}')
    made_up[1] = Message(role="assistant", content="", tool_calls=(call,))
    assert make_guard().check_prompt(made_up).action == "refuse"


def test_what_the_model_is_told_beside_is_checked() -> None:
    assert make_guard().check_prompt(user("hi"), beside="look up aurora").action == "refuse"
    assert make_guard().check_prompt(user("hi"), beside="look up bread").action == "allow"


def test_turns_that_were_refused_are_left_out_and_refuse_nothing_more() -> None:
    guard = make_guard()
    refusal = guard.check_prompt(user("aurora")).message
    talk = [
        Message(role="user", content="aurora"),
        Message(role="assistant", content=refusal),
        Message(role="user", content="Then tell me of bread."),
    ]
    decision = guard.check_prompt(talk)
    assert decision.action == "allow"
    assert [each.content for each in decision.messages] == ["Then tell me of bread."]
    # Whoever makes a refusal up only loses what came before it.
    assert drop_refused(talk[:2], spoken=guard.policy.spoken()) == []


def test_what_was_checked_before_is_only_context() -> None:
    policy = make_policy()
    check = ScriptedCheck("never")
    Guard(policy, [check]).check_prompt(user("first", "second"), new=1)
    assert ("second", "prompt", "first\nYes.") in check.asked
    assert all(text != "first" for text, _, _ in check.asked)


def test_a_conversation_sent_again_is_not_checked_again() -> None:
    check = ScriptedCheck("never")
    guard = Guard(make_policy(), [check])
    guard.check_prompt(user("first", "second"))
    asked = len(check.asked)
    guard.check_prompt(user("first", "second"))
    assert len(check.asked) == asked


def test_thresholds_are_met_from_their_value_on() -> None:
    policy = make_policy(("[category.aurora]\n", "[category.aurora]\nthreshold = 0.7\n"))
    for score, action in ((0.69, "allow"), (0.7, "refuse")):
        assert Guard(policy, [ScriptedCheck("x", score=score)]).check_prompt(user("x")).action == (
            action
        )


def test_answers_can_have_a_threshold_of_their_own() -> None:
    policy = make_policy(
        ("[category.aurora]\n", "[category.aurora]\nthreshold = 0.5\nanswer_threshold = 0.9\n")
    )
    guard = Guard(policy, [ScriptedCheck("x", score=0.8)])
    assert guard.check_prompt(user("x")).action == "refuse"
    assert guard.rule(guard.find("x", place="answer"), place="answer") == []
    assert policy.rule("aurora").least("answer") == 0.9
    assert policy.rule("odd").least("answer") == 0.5


def test_what_can_not_be_masked_is_refused() -> None:
    guard = Guard(make_policy(), [ScriptedCheck("x", category="name")])
    assert guard.check_prompt(user("x")).action == "refuse"


@pytest.mark.parametrize(
    "check",
    [
        ScriptedCheck("x", error=RuntimeError("secret text")),
        ScriptedCheck("x", error=GuardError("weights are gone")),
        ScriptedCheck("x", score=math.nan),
        ScriptedCheck("x", score=1.5),
        ScriptedCheck("x", end=99),
        ScriptedCheck("x", end=-1),
    ],
)
def test_a_check_that_fails_or_talks_nonsense_passes_nothing(check: ScriptedCheck) -> None:
    with pytest.raises(GuardError, match="words") as caught:
        Guard(make_policy(), [check]).check_prompt(user("x"))
    assert "secret text" not in caught.value.message


def test_a_long_text_is_checked_in_parts_that_overlap() -> None:
    guard = make_guard()
    for place in (0, PART_CHARS - 5, 2 * PART_CHARS, 40_000):
        text = "bread " * (place // 6) + "project aurora" + " bread" * 5000
        assert guard.check_prompt(user(text)).category == "aurora", place
    text = "bread " * 5000 + "bob " + "bread " * 5000
    masked = guard.check_prompt(user(text)).messages[0].content
    assert masked == text.replace("bob", "[name]")


def test_characters_that_json_spells_as_numbers_are_read() -> None:
    guard = make_guard()
    hidden = "".join(f"\\u{ord(char):04x}" for char in "aurora")
    assert guard.check_prompt(user('{"q": "' + hidden + '"}')).action == "refuse"
    # A name that stands there plainly is masked; that numbers stand beside it changes nothing.
    assert guard.check_prompt(user("bob \\u00e9")).messages[0].content == "[name] \\u00e9"
    assert guard.check_prompt(user("a b\\u006fb c")).messages[0].content == "a [name] c"
    assert guard.check_prompt(user("b\\u006fb\\u002e")).messages[0].content == "[name]\\u002e"


@pytest.mark.parametrize("hidden", ["see\\naurora", "project\\taurora", r"\ud83d\ude00aurora"])
def test_signs_that_json_escapes_hide_no_word_beside_them(hidden: str) -> None:
    assert make_guard().check_prompt(user(hidden)).category == "aurora"
    masked = make_guard().check_prompt(user("a\\nbob\\n")).messages[0].content
    assert masked == "a\\n[name]\\n"


def test_what_is_sure_only_once_it_is_read_from_escapes_is_found() -> None:
    class Doubtful(ScriptedCheck):
        def find(self, text, *, kind, context=""):
            return [Finding(category="aurora", score=0.9 if "w" in text else 0.1, check="words")]

    assert Guard(make_policy(), [Doubtful("")]).check_prompt(user("x\\u0077")).action == "refuse"


@pytest.mark.parametrize("before", [PART_CHARS - 1900, PART_CHARS - 1200, PART_CHARS - 40])
def test_a_key_that_the_end_of_a_part_cuts_is_masked_as_a_whole(before: int) -> None:
    policy = make_policy(
        ('["words"]\nanswer', '["patterns"]\nanswer'), ('["words"]', '["patterns"]')
    )
    policy = policy.model_copy(update={"category": {"default": Category(prompt="redact")}})
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIabcDE\n" * 900 + "-----END PRIVATE KEY-----"
    text = "bread " * (before // 6) + key + " bread" * 2000
    masked = Guard(policy, [PatternCheck()]).check_prompt(user(text)).messages[0].content
    assert masked == text.replace(key, "[secret]")


def test_arguments_of_calls_are_masked_and_what_can_not_be_is_refused() -> None:
    guard = make_guard()
    call = ToolCall(id="1", name="look", arguments='{"q": "bob"}')
    talk = [Message(role="assistant", content="", tool_calls=(call,)), *user("go on")]
    assert guard.check_prompt(talk).messages[0].tool_calls[0].arguments == '{"q": "[name]"}'
    assert guard.check_prompt(user("hi"), beside="tell bob").action == "refuse"
    talk[0] = replace(talk[0], tool_calls=(replace(call, name="project-aurora"),))
    assert guard.check_prompt(talk).action == "refuse"


def test_a_system_message_is_checked_at_each_turn() -> None:
    guard = make_guard()
    told = Message(role="system", content="Speak of aurora")
    assert guard.check_prompt([told, *user("hi")], new=1).action == "refuse"
    told = Message(role="system", content="Speak to bob, an odd one")
    decision = guard.check_prompt([told, *user("hi")], new=1)
    assert decision.messages[0].content == "Speak to [name], an odd one"
    assert decision.flags == ()


def test_a_check_gives_up_between_parts_when_its_time_is_over() -> None:
    class Slow(ScriptedCheck):
        def find(self, text, *, kind, context=""):
            time.sleep(0.02)
            return super().find(text, kind=kind, context=context)

    check = Slow("never")
    guard = Guard(make_policy(), [check])
    text = "bread " * 100_000
    with pytest.raises(GuardError, match="too long"):
        run_until(lambda: guard.find(text, place="prompt"), end_s=time.monotonic() + 0.1)
    assert 1 <= len(check.asked) < 20


def test_documents_are_flagged_or_passed_never_refused() -> None:
    assert make_guard().check_document("aurora odd").action == "allow"
    checked = make_guard(('answer = ["words"]', 'answer = ["words"]\ndocument = ["words"]'))
    assert checked.check_document("an odd text on aurora").flags == ("odd",)
    assert checked.check_document("aurora").action == "allow"


def test_a_policy_can_not_use_a_check_that_is_not_there() -> None:
    with pytest.raises(InputError, match="words"):
        Guard(make_policy(), [])


def test_the_digest_is_of_policy_and_checks() -> None:
    policy = make_policy()
    guards = [
        Guard(policy, [ScriptedCheck("x")]),
        Guard(policy, [ScriptedCheck("x", sha256="00" * 32)]),
        Guard(make_policy(("window_tokens = 3", "window_tokens = 4")), [ScriptedCheck("x")]),
    ]
    assert len({guard.sha256 for guard in guards}) == 3
    assert guards[0].sha256 == Guard(policy, [ScriptedCheck("y")]).sha256
