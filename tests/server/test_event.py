"""The event stream of a session: what is told, when it ends, and that nobody is held up by it."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.server.conftest import Running


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the data of each event."""
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


def test_a_conversation_is_told_as_it_happens(server: Running) -> None:
    # A session is told as it is when it is told: the answer goes on until its begin was seen.
    server.rig.engine.reply = lambda _: "word " * 100_000
    server.rig.engine.delay_s = 0.01
    session = server.create_session()
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines) == ": listening"
        seen: list[tuple[str, Any]] = []
        with server.stream(session):
            events = parse_events(lines)
            while not seen or seen[-1] != ("session", False):
                name, data = next(events)
                if name == "session":
                    assert data["id"] == session
                    seen.append((name, data["busy"]))
                else:
                    seen.append((name, data["finish"]))
                if seen[-1] == ("session", True):
                    server.client.post(f"/v1/sessions/{session}/stop")
    assert seen[0] == ("message", None)
    assert seen.index(("message", "cancelled")) > seen.index(("session", True))


def test_both_tellings_of_an_answer_hold_its_passages(server: Running) -> None:
    session = server.create_session()
    body = {"name": "z.txt", "text": "The zebra eats grass. " * 20}
    reading = server.client.post(f"/v1/sessions/{session}/readings", json=body).json()["id"]
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        server.say(session, "zebra?")
        answers: list[dict[str, Any]] = []
        for name, data in parse_events(lines):
            if name == "message" and data["role"] == "assistant":
                answers.append(data)
                if data["finish"] is not None:
                    break
    told = [[note["reading"] for note in answer["passages"]] for answer in answers]
    assert told == [[reading], [reading]]


def test_a_reading_whose_text_is_removed_is_told_so(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}/readings"
    body = {"name": "a", "text": "word " * 40}
    reading = server.client.post(path, json=body).json()["id"]
    server.wait_for(path, lambda found: found["data"][0]["status"] == "done")
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        server.client.delete(f"{path}/{reading}")
        data = next(data for name, data in parse_events(lines) if name == "reading")
    assert (data["id"], data["status"], data["text"]) == (reading, "done", False)


def test_a_reading_is_told_with_scores_and_its_version(server: Running) -> None:
    session = server.create_session()
    other = server.create_session()
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        for each in (other, session):
            server.client.post(
                f"/v1/sessions/{each}/readings", json={"name": "a", "text": "word " * 40}
            )
        seen: list[str] = []
        for name, data in parse_events(lines):
            seen.append(name)
            assert data.get("session", session) == session
            if name == "reading" and data["status"] == "done":
                break
    assert seen.count("score") == 4
    assert seen.index("version") > seen.index("score")


def test_the_stream_ends_when_the_session_is_deleted(server: Running) -> None:
    session = server.create_session()
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        server.client.delete(f"/v1/sessions/{session}")
        assert [line for line in lines if line.startswith("event")] == []


def test_a_listener_that_leaves_is_forgotten(server: Running) -> None:
    session = server.create_session()
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert server.rig.hub.count(session) == 1
    done = threading.Event()
    for _ in range(1000):
        if server.rig.hub.count(session) == 0:
            done.set()
            break
        done.wait(0.01)
    assert done.is_set()


def test_a_heartbeat_keeps_the_line_open(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fluvial.server.sse.HEARTBEAT_S", 0.05)
    session = server.create_session()
    with server.client.stream("GET", f"/v1/sessions/{session}/events") as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(5)][2::2] == [": still here", ": still here"]


def test_many_listeners_do_not_stop_others(server: Running) -> None:
    session = server.create_session()
    with httpx2.Client(base_url=server.url, limits=httpx2.Limits(max_connections=100)) as client:
        streams = [client.stream("GET", f"/v1/sessions/{session}/events") for _ in range(60)]
        for stream in streams:
            assert stream.__enter__().status_code == 200
        assert server.say(session, "hi").status_code == 200
        for stream in streams:
            stream.__exit__(None, None, None)
