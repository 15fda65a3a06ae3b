"""Calls read out of an answer: the same under any splitting, and never shown as text."""

import asyncio
from collections.abc import Sequence
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluvial.service.call import CallingGeneration, CallReader
from fluvial.types import Delta, FinishReason, Usage
from tests.service.test_tool import BARE, FENCED, LOOK, NOW

Read = tuple[str, list[tuple[str | None, str]], bool]


def read(text: str, *, cuts: Sequence[int] = (), bare: Sequence[str] = ()) -> Read:
    """Read a text in pieces; return its text, its calls, and whether they are complete."""
    reader = CallReader(bare=bare)
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    shown, names, arguments = "", dict[int, str | None](), dict[int, str]()
    for start, end in zip(edges, edges[1:], strict=False):
        more, calls = reader.push(text[start:end])
        shown += more
        for call in calls:
            if call.id is not None:
                assert call.index == len(names)
                assert call.id.startswith("call_")
                names[call.index] = call.name
            arguments[call.index] = arguments.get(call.index, "") + call.arguments
    shown += reader.finish()
    return shown, [(names[n], arguments[n]) for n in names], reader.complete


def test_calls_are_read_with_their_arguments_as_written() -> None:
    assert read(LOOK) == ("", [("look_up", '{"city": "K{}\\"ö"}')], True)
    both = [("look_up", '{"city": "K{}\\"ö"}'), ("now", "{}")]
    assert read(f"Let me see.\n\n{LOOK}\n{NOW}\n") == ("Let me see.", both, True)
    assert read("No call. <tool_cal\n") == ("No call. <tool_cal\n", [], False)
    assert read("") == ("", [], False)


@pytest.mark.parametrize("length", range(1, len(LOOK)))
def test_a_call_that_was_cut_off_is_not_complete_and_never_text(length: int) -> None:
    shown, calls, complete = read(LOOK[:length])
    assert not complete
    if length > len("<tool_call>\n"):
        assert shown == ""
    assert all(name == "look_up" for name, _ in calls)


parts = st.sampled_from(
    [
        BARE,
        FENCED,
        BARE[:20],
        "{",
        "```json\n",
        LOOK,
        NOW,
        "\n",
        " ",
        "a",
        "<",
        "<tool_call",
        "tool_call>",
        "é字",
        "{}",
    ]
)


@given(st.lists(parts, max_size=6).map("".join), st.lists(st.integers(0, 500), max_size=40))
def test_any_splitting_reads_the_same(text: str, cuts: list[int]) -> None:
    for bare in ((), ("look_up", "now")):
        assert read(text, cuts=cuts, bare=bare) == read(text, bare=bare)


class Script:
    def __init__(self, deltas: Sequence[Delta]) -> None:
        self.deltas = list(deltas)
        self.cancelled = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        if not self.deltas:
            raise StopAsyncIteration
        return self.deltas.pop(0)

    def cancel(self) -> None:
        self.cancelled = True


def play(text: str, *, finish: FinishReason = "stop") -> list[Delta]:
    usage = Usage(prompt_tokens=1, completion_tokens=2)
    deltas = [Delta(text=text[n : n + 3]) for n in range(0, len(text), 3)]
    script = Script([*deltas, Delta(text="", finish=finish, usage=usage)])

    async def run() -> list[Delta]:
        return [delta async for delta in CallingGeneration(script)]

    return asyncio.run(run())


def test_a_finished_call_is_the_reason_the_answer_ended() -> None:
    *deltas, last = play(f"So.\n{LOOK}")
    assert "".join(delta.text for delta in deltas) == "So."
    calls = [call for delta in deltas for call in delta.calls]
    assert [call.name for call in calls if call.name] == ["look_up"]
    assert "".join(call.arguments for call in calls) == '{"city": "K{}\\"ö"}'
    assert len(calls) > 3
    assert (last.finish, last.usage is not None) == ("tool_calls", True)
    assert all(delta.text or delta.calls for delta in deltas)


def test_any_other_end_stays_what_it_was() -> None:
    assert play("Hello there.")[-1].finish == "stop"
    assert play(LOOK[:40], finish="length")[-1].finish == "length"
    assert play(LOOK, finish="length")[-1].finish == "length"
    assert play(LOOK[:40])[-1].finish == "stop"


def test_a_cancel_goes_through() -> None:
    script = Script([])
    CallingGeneration(script).cancel()
    assert script.cancelled


def test_bare_json_of_a_call_is_read_as_one() -> None:
    names = ("look_up", "now")
    assert read(BARE, bare=names) == ("", [("now", "{}")], True)
    assert read(FENCED, bare=names) == ("", [("look_up", '{\n    "city": "x"\n  }')], True)
    assert read(BARE) == (BARE, [], False)
    assert read(BARE[:-1], bare=names)[2] is False
    assert read("  {", bare=names) == ("  {", [], False)
