"""Turns: who has waited longest reads first, and nobody is kept from it for good."""

from dataclasses import replace

from fluvial.adapt.turn import POOL_BYTES, Queued, Turns, list_oldest
from fluvial.types import Reading, Session

MOST = 4


def test_who_has_waited_longest_comes_first() -> None:
    turns, waiting = Turns(), _queue(8)
    first, second = (_choose(turns, waiting) for _ in range(2))
    assert first == ["s0", "s1", "s2", "s3"]
    assert second == ["s4", "s5", "s6", "s7"]
    assert _choose(turns, waiting) == first


def test_those_amid_something_leave_so_much_less_room() -> None:
    turns, waiting = Turns(), _queue(8)
    assert _choose(turns, waiting, amid={"s6", "s7", "elsewhere"}) == ["s0", "s6", "s7"]
    assert _choose(turns, waiting, amid={"s4", "s5", "s6", "s7"}) == ["s4", "s5", "s6", "s7"]


def test_what_is_cancelled_needs_no_room() -> None:
    turns, waiting = Turns(), _queue(8)
    amid = {"s4", "s5", "s6", "s7"}
    assert _choose(turns, waiting, amid=amid, cancelled={"r0"}) == ["s0", "s4", "s5", "s6", "s7"]


def test_what_has_failed_is_read_alone_and_in_its_turn() -> None:
    turns, waiting = Turns(), _queue(4)
    found = [_choose(turns, waiting, failed={"r1", "r2"}) for _ in range(4)]
    assert found == [["s0", "s3"], ["s1"], ["s2"], ["s0", "s3"]]


def test_a_session_that_comes_late_waits_for_nobody_twice() -> None:
    turns, waiting = Turns(), _queue(9)
    for _ in range(3):
        _choose(turns, waiting[:8])
    assert "s8" in _choose(turns, waiting)


def test_sessions_that_are_gone_are_forgotten() -> None:
    turns = Turns()
    _choose(turns, _queue(8))
    _choose(turns, _queue(2))
    assert turns._last.keys() == {"s0", "s1"}
    assert _choose(turns, []) == []
    assert not turns._last


def test_the_oldest_text_of_each_session_is_next_but_small_messages_wait() -> None:
    (one, first), (two, second), (three, third) = _queue(3)
    small = replace(second, kind="message", bytes=POOL_BYTES - 1)
    rest = replace(small, id="rest", bytes=1)
    queued = [(one, first), (two, small), (three, third), (one, replace(first, id="later"))]
    assert list_oldest(queued, holding=()) == [(one, first), (three, third)]
    assert list_oldest([*queued, (two, rest)], holding=())[1] == (two, small)
    assert list_oldest([(two, rest)], holding={two.id}) == [(two, rest)]


def _choose(
    turns: Turns,
    waiting: list[Queued],
    *,
    amid: set[str] = frozenset(),  # type: ignore[assignment]
    cancelled: set[str] = frozenset(),  # type: ignore[assignment]
    failed: set[str] = frozenset(),  # type: ignore[assignment]
) -> list[str]:
    chosen = turns.choose(
        waiting,
        amid=amid,
        most=MOST,
        is_cancelled=lambda reading: reading.id in cancelled,
        has_failed=lambda reading: reading.id in failed,
    )
    return [session.id for session, _ in chosen]


def _queue(count: int) -> list[Queued]:
    return [
        (
            Session(
                id=f"s{n}",
                owner="me",
                title="t",
                model="m",
                checkpoint="c",
                learning="on",
                version=0,
                created_at=0.0,
                updated_at=0.0,
            ),
            Reading(
                id=f"r{n}",
                session=f"s{n}",
                kind="document",
                name="t",
                status="queued",
                bytes=9000,
                tokens_total=None,
                tokens_read=0,
                created_at=0.0,
            ),
        )
        for n in range(count)
    ]
