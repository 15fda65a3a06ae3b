"""A real server on a free port, over a real store and doubles of the engine and the reader."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from fluvial.config import load
from fluvial.server.app import create_app
from fluvial.testing import Rig, make_rig


@dataclass(kw_only=True)
class Running:
    """A server under test."""

    rig: Rig
    url: str
    client: httpx2.Client

    def create_session(self, **given: object) -> str:
        answer = self.client.post("/v1/sessions", json=given)
        assert answer.status_code == 201
        return answer.json()["id"]

    def say(self, session: str | None, text: str, **given: Any) -> httpx2.Response:
        body = {"model": "scripted", "messages": [{"role": "user", "content": text}], **given}
        if session is not None:
            body["fluvial"] = {"session": session, **given.get("fluvial", {})}
        return self.client.post("/v1/chat/completions", json=body)

    def stream(
        self, session: str | None, text: str = "hi"
    ) -> AbstractContextManager[httpx2.Response]:
        """Begin a streamed answer; read its lines with `iter_lines`."""
        body: dict[str, Any] = {
            "model": "scripted",
            "messages": [{"role": "user", "content": text}],
            "stream": True,
        }
        if session is not None:
            body["fluvial"] = {"session": session}
        return self.client.stream("POST", "/v1/chat/completions", json=body)

    def wait_for(self, path: str, met: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask until an answer meets a condition, which must happen within 20 s."""
        end_s = time.monotonic() + 20
        while not met(found := self.client.get(path).json()):
            assert time.monotonic() < end_s, found
            time.sleep(0.01)
        return found


@contextmanager
def run_server(data_dir: Path, **overrides: object) -> Iterator[Running]:
    """Serve a rig with these settings on a free port, in a thread."""
    settings = load(overrides={"data_dir": data_dir, **overrides})
    rig = make_rig(data_dir, settings=settings)
    config = uvicorn.Config(
        create_app(rig.service), port=0, log_level="error", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    ready = threading.Event()
    ports: list[int] = []

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        ports.append(server.servers[0].sockets[0].getsockname()[1])
        ready.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(20)
    url = f"http://127.0.0.1:{ports[0]}"
    try:
        with httpx2.Client(base_url=url, timeout=20) as client:
            yield Running(rig=rig, url=url, client=client)
    finally:
        rig.hub.close()
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        rig.service.close()


Start = Callable[..., Running]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a server with these settings; it ends with the test."""
    with ExitStack() as ends:
        yield lambda **overrides: ends.enter_context(run_server(tmp_path / "data", **overrides))


@pytest.fixture
def server(start_server: Start) -> Running:
    """A server of the test's own."""
    return start_server()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for all tests that leave it as it was; `rig.engine` must not be touched."""
    with run_server(tmp_path_factory.mktemp("shared")) as running:
        yield running
