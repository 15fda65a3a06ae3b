"""`/v1/sessions/{id}/events`: what changes in a session, as it changes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter

from fluvial.errors import NotFoundError
from fluvial.server.access import Found, Served
from fluvial.server.sse import EventStream, encode_event
from fluvial.server.view import view_message, view_reading, view_score, view_session
from fluvial.server.view_version import view_version
from fluvial.service import Service
from fluvial.service.hub import Event, Listener
from fluvial.types import ChunkScore, Reading, Session, StoredMessage, Version

router = APIRouter(prefix="/v1/sessions/{session_id}")


@router.get("/events")
async def stream_events(session: Found, service: Served) -> EventStream:
    """Stream the changes of a session from now on."""
    listener = service.hub.listen(session.id)
    return EventStream(_encode(listener, service=service, session=session), on_close=listener.close)


async def _encode(
    listener: Listener, *, service: Service, session: Session
) -> AsyncIterator[bytes]:
    yield b": listening\n\n"
    async for event in listener:
        if event.kind == "lagged":
            yield encode_event({"message": "events were lost; load the lists"}, event="lagged")
            return
        try:
            data = await asyncio.to_thread(_view, event, service=service, session=session)
        except NotFoundError:  # deleted meanwhile
            continue
        yield encode_event(data, event=event.kind)


def _view(event: Event, *, service: Service, session: Session) -> dict[str, Any]:
    match event.record:
        case Session():
            # As it is now, which may be newer than the event: it is never older.
            return view_session(
                service.session_state(service.session(session.id, owner=session.owner))
            )
        case StoredMessage() as message:
            return view_message(message)
        case Reading() as reading:
            return view_reading(service.readings.state(reading))
        case (int() as index, ChunkScore() as score):
            return view_score(index, score)
        case Version() as version:
            return view_version(version)
        case record:
            raise TypeError(f"an event can't carry {type(record).__name__}")
