"""`/v1/sessions`: conversations that the server keeps."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fluvial.server.access import Found, Served
from fluvial.server.auth import Owner
from fluvial.server.body import describe_body, read_json
from fluvial.server.schema import NewSession, SessionChange
from fluvial.server.view import view_message, view_session
from fluvial.service import Service
from fluvial.types import Session

router = APIRouter(prefix="/v1/sessions")


@router.post("", status_code=201, openapi_extra=describe_body(NewSession))
async def create_session(request: Request, service: Served, owner: Owner) -> dict[str, Any]:
    """Begin a conversation."""
    limit_bytes = service.settings.max_body_bytes
    body = await read_json(request, NewSession, limit_bytes=limit_bytes)

    def create() -> dict[str, Any]:
        return _view(service, service.create_session(owner=owner, title=body.title))

    return await run_in_threadpool(create)


@router.get("")
def list_sessions(
    service: Served,
    owner: Owner,
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    before: Annotated[float | None, Query(allow_inf_nan=False)] = None,
) -> dict[str, Any]:
    """List conversations, newest first."""
    states = service.sessions(owner=owner, limit=limit, before=before)
    return {"object": "list", "data": [view_session(state) for state in states]}


@router.get("/{session_id}")
def show_session(session: Found, service: Served) -> dict[str, Any]:
    """Show one conversation."""
    return _view(service, session)


@router.patch("/{session_id}", openapi_extra=describe_body(SessionChange))
async def change_session(request: Request, session: Found, service: Served) -> dict[str, Any]:
    """Rename a conversation, or freeze its learning."""
    limit_bytes = service.settings.max_body_bytes
    body = await read_json(request, SessionChange, limit_bytes=limit_bytes)

    def change() -> dict[str, Any]:
        changed = service.update_session(session, title=body.title, learning=body.learning)
        return _view(service, changed)

    return await run_in_threadpool(change)


@router.delete("/{session_id}", status_code=204)
async def delete_session(session: Found, service: Served) -> Response:
    """Delete a conversation and everything in it."""
    await service.delete_session(session)
    return Response(status_code=204)


@router.get("/{session_id}/messages")
def list_messages(session: Found, service: Served) -> dict[str, Any]:
    """List the messages of a conversation in order."""
    messages = service.messages(session)
    return {"object": "list", "data": [view_message(message) for message in messages]}


@router.post("/{session_id}/stop", status_code=204)
async def stop_answer(session: Found, service: Served) -> Response:
    """Stop the answer being written."""
    await service.stop(session)
    return Response(status_code=204)


def _view(service: Service, session: Session) -> dict[str, Any]:
    return view_session(service.session_state(session))
