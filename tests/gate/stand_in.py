"""A stand-in for a Fluvial server, on a real port: it says what a test tells it to."""

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "tiny"
SUBJECTS = {"weights": "5" * 64, "guard": "6" * 64}
Reply = Callable[[dict[str, Any]], Any]
"""Takes the body of a chat completion; returns a text, or (HTTP status, body)."""


@dataclass(kw_only=True)
class StandIn:
    """A server; `asked` has the bodies of the chat completions, in the order they came."""

    url: str
    reply: Reply
    http: ThreadingHTTPServer
    asked: list[dict[str, Any]] = field(default_factory=list)
    subjects: dict[str, str] = field(default_factory=lambda: dict(SUBJECTS))
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def die(self) -> None:
        """Stop answering, as a server that was killed."""
        threading.Thread(target=self.http.shutdown).start()
        self.http.socket.close()


@contextmanager
def stand_in(reply: Reply) -> Iterator[StandIn]:
    """Serve until the end of the block."""

    class Handler(_Handler):
        pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = StandIn(url=f"http://127.0.0.1:{http.server_port}", reply=reply, http=http)
    Handler.server_state = server
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


class _Handler(BaseHTTPRequestHandler):
    server_state: StandIn
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        sessions = self.server_state.sessions
        if self.path == "/healthz":
            self._send(200, {"status": "ok", "model": MODEL})
        elif self.path == "/v1/models":
            bounds = {"drift_budget": 0.04, "canary_sha256": None}
            model: dict[str, Any] = {"served": True, "sha256": "5" * 64, "adaptation": bounds}
            model["subjects"] = self.server_state.subjects
            self._send(200, {"data": [{"fluvial": {"served": False}}, {"fluvial": model}]})
        elif self.path.endswith("/readings"):
            self._send(200, {"data": [{"status": "done"}]})
        else:
            known = self.path.rsplit("/", 1)[1] in sessions
            self._send(200 if known else 404, {"reading": False, "error": {"message": "none"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        state = self.server_state
        if self.path == "/v1/chat/completions":
            state.asked.append(body)
            self._complete(state.reply(body))
        elif self.path == "/v1/sessions":
            name = f"sess_{next(state.numbers)}"
            state.sessions[name] = {"readings": []}
            self._send(201, {"id": name})
        else:
            state.sessions[self.path.split("/")[3]]["readings"].append(body["text"])
            self._send(202, {"id": "read_1"})

    def do_DELETE(self) -> None:
        del self.server_state.sessions[self.path.rsplit("/", 1)[1]]
        self._send(204, None)

    def _complete(self, said: Any) -> None:
        if isinstance(said, tuple):
            return self._send(*said)
        choice = {"message": {"content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        return self._send(200, {"model": MODEL, "choices": [choice], "usage": usage})

    def _send(self, status: int, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
