"""A server on loopback that answers as docs/api.md says, from memory, with a scripted model."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]


class Api:
    """`calls` lists (method, path, body). `answer` is what the model says, one chunk an item."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: list[str] = ["Hel", "lo"]
        self.error: Json | None = None
        self.stall = threading.Event()
        self.stalled = threading.Event()
        self.stall_after: int | None = None
        self.sessions: dict[str, Json] = {}
        self.messages: dict[str, list[Json]] = {}
        self.readings: list[Json] = []
        self.scores: list[Json] = []
        self.versions: list[Json] = []
        self.version_begun = 0
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Bound", (Handler,), {"api": self})
        )
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.stall.set()
        self._server.shutdown()
        self._server.server_close()

    def add_session(self, name: str = "sess_1", **changes: Any) -> Json:
        session = {
            "id": name,
            "title": "A title",
            "model": "tiny",
            "learning": "on",
            "version": 0,
            "created_at": 0.0,
            "updated_at": 86_400.0,
            "context": {"used_tokens": 5, "limit_tokens": 4096},
        }
        self.sessions[name] = session | changes
        self.messages[name] = []
        return self.sessions[name]

    def add_version(self, number: int, parent: int) -> None:
        self.versions.append(
            {
                "number": number,
                "id": f"{number}d" * 32,
                "short": f"{number}d" * 6,
                "parent": parent,
                "parents": [f"{parent}d" * 32] if parent else [],
                "origin": "read",
                "reading": None,
                "text_sha256": "",
                "tokens_learned": 512,
                "updates": 1,
                "skipped": 3,
                "score_before_bits_per_byte": 0.9 if parent else None,
                "frozen_bits_per_byte": 1.1 if parent else None,
                "drift": 0.001 if parent else None,
                "scale": 1.0,
                "note": "evil\x1b[2J note" if parent else "",
                "rule": "",
                "pinned": parent == 0,
                "expires_at": None,
                "bytes": 1000,
                "sha256": "0" * 64,
                "created_at": 0.0,
            }
        )

    def add_score(self, index: int, *, start: int = 0, learned: bool = True, **more: Any) -> None:
        score = {
            "index": index,
            "reading": "read_1",
            "start": start,
            "tokens": 50,
            "bytes": 200,
            "frozen_bits_per_byte": 1.0,
            "adapted_bits_per_byte": 1.0,
            "version": 0,
            "learned": learned,
            "reason": "" if learned else "unsurprising",
            "seconds": None,
            "created_at": 0.0,
        }
        self.scores.append(score | more)

    def add_reading(self, name: str, *, steps: list[int], status: str = "done") -> None:
        """Offer a reading that is further at every question, along `steps`."""
        self.readings.append(
            {
                "id": f"read_{len(self.readings) + 1}",
                "name": name,
                "status": status,
                "tokens_total": steps[-1],
                "steps": list(steps),
                "error": None,
            }
        )

    def paths(self, method: str) -> list[str]:
        return [path for verb, path, _ in self.calls if verb == method]


class Handler(BaseHTTPRequestHandler):
    """Routes of the API that the command line uses."""

    protocol_version = "HTTP/1.1"
    api: Api

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._handle("GET")

    def do_POST(self) -> None:
        self._handle("POST")

    def do_PATCH(self) -> None:
        self._handle("PATCH")

    def do_DELETE(self) -> None:
        self._handle("DELETE")

    def _handle(self, method: str) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_json = self.headers.get("Content-Type", "").startswith("application/json")
        body = json.loads(raw) if is_json else raw
        self.api.calls.append((method, self.path, body))
        self.api.keys.append(self.headers.get("Authorization"))
        routes: list[tuple[str, str, Callable[..., None]]] = [
            ("POST", r"/v1/chat/completions", lambda: self._chat(body)),
            ("GET", r"/v1/sessions\?limit=\d+", lambda: self._list()),
            ("POST", r"/v1/sessions", self._begin),
            ("DELETE", r"/v1/sessions/([^/]+)", lambda _: self._empty()),
            ("PATCH", r"/v1/sessions/([^/]+)", lambda name: self._update(name, body)),
            ("GET", r"/v1/sessions/([^/]+)", lambda name: self._session(name)),
            ("POST", r"/v1/sessions/([^/]+)/stop", lambda _: self._empty()),
            (
                "GET",
                r"/v1/sessions/([^/]+)/messages",
                lambda name: self._json({"data": self.api.messages[name]}),
            ),
            ("POST", r"/v1/sessions/([^/]+)/readings", lambda _: self._upload(raw)),
            ("GET", r"/v1/sessions/([^/]+)/readings", lambda _: self._read()),
            (
                "GET",
                r"/v1/sessions/([^/]+)/scores",
                lambda _: self._json({"data": self.api.scores}),
            ),
            ("GET", r"/v1/sessions/([^/]+)/versions", self._versions),
            (
                "POST",
                r"/v1/sessions/([^/]+)/versions/(\d+)/restore",
                lambda name, number: self._update(name, {"version": int(number)}),
            ),
            (
                "GET",
                r"/v1/sessions/([^/]+)/versions/(\d+)/export",
                lambda *_: self._bytes(b"tensors"),
            ),
        ]
        for verb, pattern, action in routes:
            found = re.fullmatch(pattern, self.path)
            if verb == method and found:
                return action(*found.groups())
        return self._fail(404, "not_found", f"no route {self.path}")

    def _begin(self) -> None:
        self._json(self.api.add_session(version=self.api.version_begun), 201)

    def _session(self, name: str) -> None:
        if name in self.api.sessions:
            self._json(self.api.sessions[name])
        else:
            self._fail(404, "not_found", f"no session {name}")

    def _update(self, name: str, body: Json) -> None:
        self.api.sessions[name] |= body
        self._json(self.api.sessions[name])

    def _list(self) -> None:
        self._json({"data": list(self.api.sessions.values())})

    def _versions(self, name: str) -> None:
        current = self.api.sessions[name]["version"]
        found = {"current": current, "data": self.api.versions, "drift_budget": 0.1}
        self._json(found | {"bytes": 2000, "limit_bytes": 5000})

    def _upload(self, raw: bytes) -> None:
        found = re.search(rb'filename="([^"]*)"', raw)
        names = [reading["name"] for reading in self.api.readings]
        name = found[1].decode() if found else ""
        if name not in names:
            return self._fail(400, "invalid_request", f"{name} can't be read")
        return self._json(self.api.readings[names.index(name)] | {"tokens_read": 0}, 202)

    def _read(self) -> None:
        data: list[Json] = []
        for reading in self.api.readings:
            steps: list[int] = reading["steps"]
            now = steps.pop(0) if len(steps) > 1 else steps[0]
            status = reading["status"] if now == reading["tokens_total"] else "reading"
            data.append(reading | {"tokens_read": now, "status": status})
        self._json({"data": data})

    def _chat(self, body: Json) -> None:
        if self.api.error is not None:
            self._fail(409, self.api.error["code"], self.api.error["message"])
            return
        ids = {"session": body["fluvial"]["session"], "message": "msg_2", "version": 3}
        self._start("text/event-stream")
        for index, text in enumerate(self.api.answer):
            chunk: Json = {"choices": [{"index": 0, "delta": {"content": text}}]}
            self._event(chunk | ({"fluvial": ids} if index == 0 else {}))
            if self.api.stall_after == index:
                self.api.stalled.set()
                self.api.stall.wait(30)
        self._event({"choices": [], "usage": {"completion_tokens": 2}, "fluvial": ids})
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, value: Json) -> None:
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def _start(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Connection", "close")
        self.end_headers()

    def _json(self, value: object, status: int = 200) -> None:
        self._bytes(json.dumps(value).encode(), "application/json", status)

    def _bytes(
        self, data: bytes, kind: str = "application/octet-stream", status: int = 200
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _empty(self) -> None:
        self.send_response(204)
        self.end_headers()

    def _fail(self, status: int, code: str, message: str) -> None:
        error = {"message": message, "type": "invalid_request_error", "code": code, "param": None}
        self._json({"error": error}, status)


@contextmanager
def run_api() -> Iterator[Api]:
    """Run a server for the length of the block."""
    api = Api()
    try:
        yield api
    finally:
        api.close()
