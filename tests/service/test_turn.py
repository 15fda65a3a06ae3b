"""One answer: handed on, kept, and always ended, whoever fails or leaves."""

import asyncio
from collections.abc import Sequence
from typing import Self

import pytest

from fluvial.errors import EngineError, FluvialError, StorageError
from fluvial.service.turn import Receipt, Turn
from fluvial.types import Delta, FinishReason, GuardNote, Usage

END = Delta(text="", finish="stop", usage=Usage(prompt_tokens=1, completion_tokens=2))


class Script:
    """A generation that yields these deltas, or raises where an error stands."""

    def __init__(self, steps: Sequence[Delta | Exception]) -> None:
        self.steps = list(steps)
        self.cancelled = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Delta:
        await asyncio.sleep(0)
        if not self.steps:
            raise StopAsyncIteration
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        return step

    def cancel(self) -> None:
        self.cancelled += 1


class Shelf:
    """A record that notes what it is told, and fails where it is told to."""

    receipt = Receipt(session="s", user_message="u", message="m", version=0, passages=())

    def __init__(self, *, fails: str = "") -> None:
        self.flushed: list[str] = []
        self.finished: list[tuple[str, FinishReason]] = []
        self.fails = fails

    async def flush(self, text: str) -> None:
        if self.fails == "flush":
            raise StorageError("full")
        self.flushed.append(text)

    async def finish(
        self, text: str, *, finish: FinishReason, guard: GuardNote | None = None
    ) -> None:
        if self.fails == "finish":
            raise StorageError("full")
        self.finished.append((text, finish))


async def collect(turn: Turn) -> tuple[list[Delta], FluvialError | None]:
    seen: list[Delta] = []
    try:
        async for delta in turn:
            seen.append(delta)
    except FluvialError as error:
        return seen, error
    return seen, None


def run(script: Script, shelf: Shelf) -> tuple[list[Delta], FluvialError | None, list[str]]:
    order: list[str] = []

    async def go() -> tuple[list[Delta], FluvialError | None]:
        turn = Turn(script, record=shelf, on_end=lambda: order.append(str(len(shelf.finished))))
        found = await asyncio.wait_for(collect(turn), 10)
        await turn.wait()
        return found

    seen, error = asyncio.run(go())
    return seen, error, order


def test_pieces_come_in_order_and_the_end_after_the_store() -> None:
    script, shelf = Script([Delta(text="a"), Delta(text="b"), END]), Shelf()
    seen, error, order = run(script, shelf)
    assert "".join(delta.text for delta in seen) == "ab"
    assert (seen[-1], error) == (END, None)
    assert shelf.finished == [("ab", "stop")]
    assert order == ["1"]


def test_the_text_of_the_last_piece_is_kept_too() -> None:
    last = Delta(text="!", finish="length", usage=END.usage)
    _, _, _ = run(Script([Delta(text="a"), last]), shelf := Shelf())
    assert shelf.finished == [("a!", "length")]


def test_a_partial_answer_is_flushed_at_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluvial.service.turn.FLUSH_INTERVAL_S", 0.0)
    run(Script([Delta(text="a"), Delta(text="b"), END]), shelf := Shelf())
    assert shelf.flushed == ["a", "ab"]


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ([Delta(text="a"), EngineError("broken")], "engine_failed"),
        ([Delta(text="a"), ValueError("secret")], "engine_failed"),
        ([Delta(text="a")], "engine_failed"),
    ],
)
def test_a_failure_ends_the_answer_and_keeps_what_there_is(
    steps: list[Delta | Exception], code: str
) -> None:
    script, shelf = Script(steps), Shelf()
    seen, error, order = run(script, shelf)
    assert [delta.text for delta in seen] == ["a"]
    assert isinstance(error, EngineError)
    assert "secret" not in error.message
    assert shelf.finished == [("a", "error")]
    assert script.cancelled
    assert len(order) == 1


@pytest.mark.parametrize("fails", ["flush", "finish"])
def test_a_disk_that_refuses_ends_the_answer(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    monkeypatch.setattr("fluvial.service.turn.FLUSH_INTERVAL_S", 0.0)
    script = Script([Delta(text="a"), END])
    _, error, order = run(script, Shelf(fails=fails))
    assert isinstance(error, StorageError)
    assert script.cancelled
    assert len(order) == 1


def test_a_turn_nobody_listens_to_still_ends() -> None:
    async def go() -> Shelf:
        shelf = Shelf()
        turn = Turn(Script([Delta(text="a"), END]), record=shelf)
        await asyncio.wait_for(turn.wait(), 10)
        return shelf

    assert asyncio.run(go()).finished == [("a", "stop")]
