"""A web server on loopback that plays package index and hub, good or bad; and tiny models."""

import hashlib
import io
import json
import re
import struct
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

JSON_TYPE = "application/vnd.pypi.simple.v1+json"


def make_gguf(size_bytes: int = 4096, *, seed: int = 0) -> bytes:
    """Make a sound GGUF file: one llama, one F32 tensor of pseudo-random bytes."""
    count = max(8, size_bytes // 4 // 8 * 8)

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    head += text("general.architecture") + struct.pack("<I", 8) + text("llama")
    head += text("token_embd.weight") + struct.pack("<IQIQ", 1, count, 0, 0)
    head += bytes(-len(head) % 32)
    block = hashlib.sha256(str(seed).encode()).digest()
    data = b"".join(
        hashlib.sha256(block + struct.pack("<I", n)).digest() for n in range(count * 4 // 32)
    )
    return head + data


def make_wheel(members: dict[str, bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip archive of `members`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def digest(data: bytes) -> str:
    """Return the sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class Blob:
    """What one address answers. `cuts` holds, per request, after how many bytes the line breaks."""

    data: bytes
    content_type: str = "application/octet-stream"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    delay_s: float = 0.0
    statuses: list[int] = field(default_factory=list)


class Stub:
    """The server. `requests` lists (method, path, Range header); `headers` have lower-case keys."""

    def __init__(self, port: int = 0) -> None:
        self.blobs: dict[str, Blob] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("Bound", (Handler,), {"stub": self})
        )
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_json(self, path: str, value: object, content_type: str = JSON_TYPE) -> None:
        self.blobs[path] = Blob(json.dumps(value).encode(), content_type)

    def add_wheel(self, project: str, version: str, wheel: bytes, **changes: Any) -> Blob:
        """Offer a wheel in the index at /simple; `changes` go over what the index says of it."""
        filename = f"{project.replace('-', '_')}-{version}-py3-none-any.whl"
        blob = self.blobs[f"/files/{filename}"] = Blob(wheel)
        told = {
            "filename": filename,
            "url": f"../../files/{filename}",
            "size": len(wheel),
            "hashes": {"sha256": digest(wheel)},
        }
        self.add_json(f"/simple/{project}/", {"files": [told | changes]})
        return blob

    def add_hub_file(self, repository: str, path: str, data: bytes, **changes: Any) -> Blob:
        """Offer a file as a hub does: metadata in the headers of its resolve address."""
        commit = "0" * 39 + "1"
        headers = {"ETag": f'"{digest(data)}"', "X-Repo-Commit": commit}
        blob = Blob(data, headers=headers, **changes)
        for revision in ("main", commit):
            self.blobs[f"/{repository}/resolve/{revision}/{path}"] = blob
        return blob

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]


class Handler(BaseHTTPRequestHandler):
    """Answers from the blobs of `stub`, which a subclass sets."""

    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.stub.requests.append((self.command, self.path, self.headers.get("Range")))
        self.stub.headers.append({key.lower(): value for key, value in self.headers.items()})
        blob = self.stub.blobs.get(self.path, Blob(b"nothing here", "text/plain", 404))
        time.sleep(blob.delay_s)
        status = blob.statuses.pop(0) if blob.statuses and body else blob.status
        start = self._start(blob, status)
        self.send_response(self._status(blob, status, start))
        if 0 < start < len(blob.data):
            span = f"bytes {start}-{len(blob.data) - 1}/{len(blob.data)}"
            self.send_header("Content-Range", span)
        data = blob.data[start:]
        self.send_header("Content-Type", blob.content_type)
        self.send_header("Content-Length", str(len(data)))
        for key, value in blob.headers.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self._send(blob, data)

    def _status(self, blob: Blob, status: int, start: int) -> int:
        if start == 0:
            return status
        return 206 if start < len(blob.data) else 416

    def _start(self, blob: Blob, status: int) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found and blob.ranges and status == 200 else 0

    def _send(self, blob: Blob, data: bytes) -> None:
        cut = blob.cuts.pop(0) if blob.cuts else None
        self.close_connection = cut is not None
        with suppress(OSError):
            self.wfile.write(data[:cut])
            self.wfile.flush()


@contextmanager
def run_stub() -> Iterator[Stub]:
    """Run a server for the length of the block."""
    stub = Stub()
    try:
        yield stub
    finally:
        stub.close()


@dataclass
class Recorder:
    """A Progress that remembers."""

    notes: list[str] = field(default_factory=list)
    labels: list[tuple[str, int | None]] = field(default_factory=list)
    done_bytes: int = 0

    def start(self, label: str, *, total_bytes: int | None) -> None:
        self.labels.append((label, total_bytes))
        self.done_bytes = 0

    def advance(self, count_bytes: int) -> None:
        self.done_bytes += count_bytes

    def note(self, text: str) -> None:
        self.notes.append(text)
