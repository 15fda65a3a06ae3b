"""Server-Sent Events: their bytes, a heartbeat between them, and an end that is always noticed."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

HEARTBEAT_S = 15.0
HEARTBEAT = b": still here\n\n"


def encode_event(data: Any, *, event: str | None = None) -> bytes:
    """Write one event. `data` is written as JSON, or as it is where it is bytes."""
    text = data if isinstance(data, bytes) else _encode(data)
    name = f"event: {event}\n".encode() if event else b""
    return name + b"data: " + text + b"\n\n"


def _encode(data: Any) -> bytes:
    # No line break can occur inside: JSON escapes it.
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


class EventStream(StreamingResponse):
    """A stream of events that calls `on_close` however it ends, the client's leaving included."""

    def __init__(self, events: AsyncIterator[bytes], *, on_close: Callable[[], None]) -> None:
        super().__init__(
            beat(events),
            media_type="text/event-stream; charset=utf-8",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )
        self._on_close = on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_close()


async def beat(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Pass events on, with a comment wherever none came for `HEARTBEAT_S`."""
    waiting: asyncio.Future[bytes] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([waiting], timeout=HEARTBEAT_S)
            if not done:
                yield HEARTBEAT
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield event
    finally:
        if waiting is not None:
            waiting.cancel()
