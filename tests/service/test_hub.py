"""The hub: events from any thread, in order, to listeners; slow ones are told and dropped."""

import asyncio
import threading
from dataclasses import replace

import pytest

from fluvial.service.hub import Hub
from fluvial.types import Reading, Session

SESSION = Session(
    id="sess_1",
    owner="local",
    title="",
    model="m",
    checkpoint="c",
    learning="on",
    version=0,
    created_at=0.0,
    updated_at=0.0,
)
READING = Reading(
    id="read_1",
    session="sess_1",
    kind="document",
    name="a",
    status="reading",
    bytes=1,
    tokens_total=100,
    tokens_read=0,
    created_at=0.0,
)


def test_events_come_in_order_from_another_thread_and_only_to_their_session() -> None:
    async def run() -> list[object]:
        hub = Hub()
        listener = hub.listen("sess_1")
        other = hub.listen("sess_2")

        def publish() -> None:
            for number in range(50):
                hub.publish("score", SESSION, number)
            hub.end("sess_1")
            hub.end("sess_2")

        threading.Thread(target=publish).start()
        seen = [event.record async for event in listener]
        assert [event async for event in other] == []
        return seen

    assert asyncio.run(run()) == list(range(50))


def test_a_slow_listener_is_told_and_dropped_and_others_are_not() -> None:
    async def run() -> None:
        hub = Hub(capacity=3)
        slow, quick = hub.listen("sess_1"), hub.listen("sess_1")
        quick_seen: list[object] = []
        for number in range(10):
            hub.publish("score", SESSION, number)
            await asyncio.sleep(0)
            quick_seen.append((await anext(quick)).record)
        kinds = [event.kind async for event in slow]
        assert kinds == ["score"] * 3 + ["lagged"]
        assert quick_seen == list(range(10))

    asyncio.run(run())


def test_progress_is_told_seldom_but_a_change_of_status_always(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("fluvial.service.hub.time.monotonic", lambda: now)

    async def run() -> list[tuple[str, int]]:
        nonlocal now
        hub = Hub()
        listener = hub.listen("sess_1")
        hub.publish("reading", SESSION, replace(READING, status="queued"))
        for tokens in range(0, 100, 10):
            hub.publish("reading", SESSION, replace(READING, tokens_read=tokens))
            now += 0.2
        hub.publish("reading", SESSION, replace(READING, status="done", tokens_read=100))
        hub.end("sess_1")
        found: list[tuple[str, int]] = []
        async for event in listener:
            assert isinstance(event.record, Reading)
            found.append((event.record.status, event.record.tokens_read))
        return found

    assert asyncio.run(run()) == [
        ("queued", 0),
        ("reading", 0),
        ("reading", 30),
        ("reading", 60),
        ("reading", 90),
        ("done", 100),
    ]


def test_closing_ends_all_streams_and_each_new_one() -> None:
    async def run() -> None:
        hub = Hub()
        listeners = [hub.listen("sess_1"), hub.listen("sess_2")]
        hub.close()
        listeners.append(hub.listen("sess_3"))
        for listener in listeners:
            assert [event async for event in listener] == []
            listener.close()
        assert hub.count("sess_1") == 0

    asyncio.run(run())


def test_publishing_after_the_loop_has_ended_does_nothing() -> None:
    hub = Hub()

    async def listen() -> None:
        hub.listen("sess_1")

    asyncio.run(listen())
    hub.publish("session", SESSION, SESSION)


def test_the_revision_counts_changes_of_the_session_itself() -> None:
    hub = Hub()
    before = hub.revision("sess_1")
    hub.publish("score", SESSION, 1)
    hub.publish("message", SESSION, 1)
    assert hub.revision("sess_1") == before
    hub.publish("version", SESSION, 1)
    assert hub.revision("sess_1") != before
