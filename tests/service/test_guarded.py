"""An answer while it is guarded: what fails, hangs or is found is never shown."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

import pytest

from fluvial.errors import EngineError, FluvialError, GuardError
from fluvial.guard.guard import Decision, Guard
from fluvial.service.guarding import Guarding, recall
from fluvial.types import Delta, GuardNote, Message, StoredMessage, TokenLogprob, Usage
from tests.guard.world import ScriptedCheck, make_guard, make_policy

USAGE = Usage(prompt_tokens=5, completion_tokens=7)
QUESTION = [Message(role="user", content="How are you?")]


class Script:
    """A generation that yields these pieces, each after `delay_s`; it ends when cancelled."""

    def __init__(self, pieces: Sequence[Delta | Exception], *, delay_s: float = 0.0) -> None:
        self.pieces = list(pieces)
        self.delay_s = delay_s
        self.cancelled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        await asyncio.sleep(self.delay_s)
        if self.cancelled:
            return Delta(text="", finish="cancelled", usage=USAGE)
        piece = self.pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def cancel(self) -> None:
        self.cancelled = True


def tell(text: str) -> list[Delta | Exception]:
    """Make a delta of each word, with a logprob, and an end."""
    words = [word if at == 0 else f" {word}" for at, word in enumerate(text.split(" "))]
    told = [TokenLogprob(text=word, bytes=word.encode(), logprob=-1.0) for word in words]
    deltas = [Delta(text=each.text, logprobs=(each,)) for each in told]
    return [*deltas, Delta(text="", finish="stop", usage=USAGE)]


class Told:
    """Collects what is put on record."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, dict[str, object]]] = []

    def append(self, kind, *, actor, subject, detail) -> None:
        self.entries.append((kind, subject, dict(detail)))

    def describe(self, text, *, session=None):
        return {"text_hmac": "h", "text_chars": len(text)}

    def forget(self, session) -> None: ...


def run(
    script: Script, guard: Guard | None, *, question: Sequence[Message] = QUESTION
) -> tuple[list[Delta], FluvialError | None, Told]:
    async def go() -> tuple[list[Delta], FluvialError | None, Told]:
        told = Told()
        guarding = Guarding(guard, audit=told)
        guarded = guarding.guard_answer(script, messages=question, owner="me", session="s1")
        seen: list[Delta] = []
        try:
            async for delta in guarded:
                seen.append(delta)
        except FluvialError as error:
            return seen, error, told
        finally:
            guarding.close()
        return seen, None, told

    return asyncio.run(asyncio.wait_for(go(), 20))


def read(seen: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in seen)


def test_harmless_text_comes_out_whole_with_its_end_and_its_logprobs() -> None:
    text = "bread is made of flour, water, salt and a long time of waiting for it"
    seen, error, told = run(Script(tell(text)), make_guard())
    assert error is None
    assert read(seen) == text
    assert (seen[-1].finish, seen[-1].usage, seen[-1].guard) == ("stop", USAGE, None)
    assert "".join(each.text for delta in seen for each in delta.logprobs) == text
    assert len(seen) > 3
    assert told.entries == []
    shown, spelt = "", ""
    for delta in seen:
        shown += delta.text
        spelt += "".join(each.text for each in delta.logprobs)
        assert shown.startswith(spelt)


def test_what_is_found_ends_the_answer_and_is_never_told_not_even_as_logprobs() -> None:
    text = "first some words of bread and then of project aurora and more of it " * 3
    script = Script(tell(text))
    seen, error, told = run(script, make_guard())
    assert error is None
    assert read(seen) in text
    assert 0 < len(read(seen)) < text.index("project")
    last = seen[-1]
    assert (last.finish, last.usage) == ("content_filter", USAGE)
    message = "Aurora is not for me to talk about. Ask about the weather."
    assert last.guard == GuardNote(action="stop", category="aurora", message=message)
    assert "aurora" not in str([delta.logprobs for delta in seen])
    assert script.cancelled
    ((kind, subject, detail),) = told.entries
    assert (kind, subject, detail["category"]) == ("guard.answer_stop", "s1", "aurora")
    assert "aurora and more" not in str(told.entries)


def test_the_notice_is_in_the_language_of_the_question() -> None:
    question = [Message(role="user", content="你好吗？")]
    seen, _, _ = run(Script(tell("aurora")), make_guard(), question=question)
    assert seen[-1].guard is not None
    assert "极光计划" in seen[-1].guard.message


def test_names_are_masked_and_their_logprobs_left_out() -> None:
    seen, error, told = run(Script(tell("so Ada Lovelace met bob on a day")), make_guard())
    assert error is None
    assert read(seen) == "so [name] met [name] on a day"
    spelt = "".join(each.text for delta in seen for each in delta.logprobs)
    assert spelt == "so met on a day"
    assert seen[-1].finish == "stop"
    assert seen[-1].guard == GuardNote(action="redact", category="name")
    assert [kind for kind, _, _ in told.entries] == ["guard.answer_redact"]


def test_flags_are_only_put_on_record() -> None:
    seen, _, told = run(Script(tell("an odd answer")), make_guard())
    assert (read(seen), seen[-1].guard) == ("an odd answer", None)
    assert [(kind, detail["flags"]) for kind, _, detail in told.entries] == [
        ("guard.answer_flag", "odd")
    ]


@pytest.mark.parametrize("error", [RuntimeError("broken"), GuardError("gone")])
def test_after_a_check_that_fails_nothing_more_is_shown(error: Exception) -> None:
    class Failing(ScriptedCheck):
        def find(self, text, *, kind, context=""):
            if "salt" in text:
                raise error
            return []

    text = "bread is made of flour and water and then of salt and waiting"
    script = Script(tell(text))
    seen, raised, _ = run(script, Guard(make_policy(), [Failing("x")]))
    assert isinstance(raised, GuardError)
    assert "salt" not in read(seen)
    assert all(delta.finish is None for delta in seen)


def test_a_check_that_hangs_ends_the_answer() -> None:
    class Hanging(ScriptedCheck):
        def find(self, text, *, kind, context=""):
            time.sleep(0.5)
            return []

    policy = make_policy(("delay_ms = 60000", "delay_ms = 60000\ntimeout_ms = 20"))
    begun_s = time.monotonic()
    seen, raised, _ = run(Script(tell("any words at all")), Guard(policy, [Hanging("x")]))
    assert isinstance(raised, GuardError)
    assert "20 ms" in raised.message
    assert seen == []
    assert time.monotonic() - begun_s < 5


def test_the_event_loop_goes_on_while_checks_run() -> None:
    class Slow(ScriptedCheck):
        def find(self, text, *, kind, context=""):
            time.sleep(0.5)
            return []

    async def go() -> int:
        guarding = Guarding(Guard(make_policy(), [Slow("x")]))
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                await asyncio.sleep(0.01)
                beats += 1

        beating = asyncio.create_task(beat())
        guarded = guarding.guard_answer(
            Script(tell("a b c")), messages=QUESTION, owner="", session=None
        )
        async for _ in guarded:
            pass
        beating.cancel()
        guarding.close()
        return beats

    assert asyncio.run(go()) >= 5


def test_slow_text_is_checked_early_and_shown_without_its_window() -> None:
    policy = make_policy(
        ("every_tokens = 2", "every_tokens = 500"), ("delay_ms = 60000", "delay_ms = 50")
    )
    check = ScriptedCheck("never")
    text = "bread is made of flour and water"
    seen, _, _ = run(Script(tell(text), delay_s=0.03), Guard(policy, [check]))
    assert read(seen) == text
    assert len(seen) >= 3
    assert len({asked for asked, _, _ in check.asked}) >= 3
    # Fast text waits for its window.
    fast, _, _ = run(Script(tell(text)), Guard(policy, [check]))
    assert len(fast) == 2


def test_what_was_written_before_the_engine_failed_is_checked_and_shown() -> None:
    pieces = [Delta(text="some words"), EngineError("broke")]
    seen, error, _ = run(Script(pieces), make_guard())
    assert (read(seen), isinstance(error, EngineError)) == ("some words", True)
    pieces = [Delta(text="some aurora"), EngineError("broke")]
    seen, error, told = run(Script(pieces), make_guard())
    assert read(seen) == ""
    assert [kind for kind, _, _ in told.entries] == ["guard.answer_stop"]


def test_a_token_that_a_stop_string_cut_is_not_told_beyond_the_text() -> None:
    whole = TokenLogprob(text="of", bytes=b"of", logprob=-1.0)
    cut = TokenLogprob(text=" aurora", bytes=b" aurora", logprob=-1.0)
    last = Delta(text=" a", finish="stop", usage=USAGE, logprobs=(cut,))
    seen, _, _ = run(Script([Delta(text="of", logprobs=(whole,)), last]), make_guard())
    assert read(seen) == "of a"
    assert [each for delta in seen for each in delta.logprobs] == [whole]


def test_off_changes_nothing() -> None:
    script = Script(tell("aurora"))
    assert Guarding(None).guard_answer(script, messages=[], owner="", session=None) is script
    decision = asyncio.run(
        Guarding(None).check_prompt(QUESTION, new=None, owner="me", session=None)
    )
    assert decision == Decision(action="allow", messages=tuple(QUESTION))


def test_stored_turns_that_were_refused_are_not_recalled() -> None:
    def stored(role, content, note=None) -> StoredMessage:
        return StoredMessage(
            id=content, session="s", position=0, role=role, content=content, created_at=0.0,
            version=0, guard=note,
        )  # fmt: skip

    refused = GuardNote(action="refuse", category="aurora", message="no")
    stopped = replace(refused, action="stop")
    talk = [
        stored("user", "bread?"),
        stored("assistant", "flour", stopped),
        stored("user", "aurora?"),
        stored("assistant", "no", refused),
        stored("user", "water?"),
    ]
    assert [each.content for each in recall(talk)] == ["bread?", "flour", "water?"]
