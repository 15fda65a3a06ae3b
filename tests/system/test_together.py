"""Four chats at once on one engine, one of them reading: none waits for another, none changes."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.system.live import Live, install, run_live

CHATS = 4
QUESTIONS = [f"Question {n}: where does a river carry its sand, and leaves?" for n in range(4)]
ANSWER = {"max_tokens": 800, "temperature": 0.8, "ignore_eos": True, "stream": True}
DOCUMENT = "The ferry crosses at dawn, and the sand it lifts is counted by nobody. " * 1500
PATIENCE_S = 60


@dataclass(kw_only=True)
class Heard:
    """What one chat heard: its text, when its pieces came, versions told of, how it ended."""

    text: str = ""
    times_s: list[float] = field(default_factory=list[float])
    versions: list[int] = field(default_factory=list[int])
    finish: str | None = None


def ask(live: Live, session: str, number: int, *, ready: Callable[[], object]) -> Heard:
    """Ask in a session and listen to the end."""
    body: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": QUESTIONS[number]}],
        "seed": number,
        "fluvial": {"session": session},
        **ANSWER,
    }
    heard = Heard()
    ready()
    with live.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                choice = chunk["choices"][0]
                if "fluvial" in chunk:
                    heard.versions.append(chunk["fluvial"]["version"])
                if choice["delta"].get("content"):
                    heard.times_s.append(time.monotonic())
                    heard.text += choice["delta"]["content"]
                heard.finish = choice["finish_reason"] or heard.finish
    return heard


def ask_together(live: Live, sessions: list[str]) -> list[Heard]:
    gate = threading.Barrier(len(sessions))
    with ThreadPoolExecutor(len(sessions)) as pool:
        asked = [
            pool.submit(ask, live, session, number, ready=gate.wait)
            for number, session in enumerate(sessions)
        ]
        return [each.result(PATIENCE_S) for each in asked]


def overlap(heard: list[Heard]) -> bool:
    """Tell whether each of them said something before the first one ended."""
    first_end_s = min(each.times_s[-1] for each in heard)
    return all(each.times_s[0] < first_end_s for each in heard)


def wait_for_version(live: Live, session: str, *, over: int) -> int:
    end_s = time.monotonic() + PATIENCE_S
    while (now := live.client.get(f"/v1/sessions/{session}").json()["version"]) <= over:
        assert time.monotonic() < end_s
        time.sleep(0.05)
    return now


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Any:
    """A server where versions follow each other quickly."""
    data_dir = tmp_path_factory.mktemp("together")
    install(data_dir, tiny_model)
    (data_dir / "quick.toml").write_text("version_tokens = 256\nchunk_tokens = 64\nrank = 2\n")
    with run_live(data_dir, "--config", str(data_dir / "quick.toml")) as live:
        yield live


def test_four_answers_at_once_are_those_of_each_alone(server: Live) -> None:
    alone = [
        ask(server, server.create_session(), number, ready=lambda: None) for number in range(CHATS)
    ]
    together = ask_together(server, [server.create_session() for _ in range(CHATS)])
    assert [each.text for each in together] == [each.text for each in alone]
    assert len({each.text for each in together}) == CHATS
    assert overlap(together)
    assert not overlap(alone)
    assert {each.finish for each in together} == {"length"}


def test_a_session_that_reads_gets_new_versions_and_changes_nobody_elses_answer(
    server: Live,
) -> None:
    alone = [
        ask(server, server.create_session(), number, ready=lambda: None)
        for number in range(1, CHATS)
    ]
    sessions = [server.create_session() for _ in range(CHATS)]
    server.client.post(
        f"/v1/sessions/{sessions[0]}/readings", json={"name": "ferry.txt", "text": DOCUMENT}
    ).raise_for_status()
    wait_for_version(server, sessions[0], over=0)
    together = ask_together(server, sessions)
    assert overlap(together)
    assert [each.text for each in together[1:]] == [each.text for each in alone]
    # What it read took over in the middle of its own answer.
    first, last = together[0].versions
    assert 0 < first < last
    assert together[0].finish == "length"
    assert [each.versions for each in together[1:]] == [[0, 0]] * (CHATS - 1)
