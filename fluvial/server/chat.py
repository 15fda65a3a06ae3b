"""`POST /v1/chat/completions`: OpenAI's shape, stream and not, with Fluvial's session beside it."""

import asyncio

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fluvial.errors import InputError, NotFoundError, UnsupportedError
from fluvial.server.access import Served
from fluvial.server.answer import Completion
from fluvial.server.auth import Owner
from fluvial.server.body import describe_body, read_json
from fluvial.server.completion import ChatRequest
from fluvial.server.sse import EventStream
from fluvial.service import Service
from fluvial.service.turn import Turn
from fluvial.store import UNSET

router = APIRouter(prefix="/v1/chat")


@router.post("/completions", openapi_extra=describe_body(ChatRequest))
async def complete_chat(request: Request, service: Served, owner: Owner) -> Response:
    """Answer a conversation."""
    body = await read_json(request, ChatRequest, limit_bytes=service.settings.max_body_bytes)
    _check_model(body, service=service)
    session_id = _session_id(body, header=request.headers.get("fluvial-session"))
    turns = await _begin(body, service=service, owner=owner, session_id=session_id)
    answer = Completion(turns, model=service.model.name, logprobs=body.logprobs)
    if not body.stream:
        return await _collect(request, answer)
    usage = body.stream_options is not None and body.stream_options.include_usage
    return EventStream(answer.stream(include_usage=usage), on_close=answer.cancel)


async def _begin(
    body: ChatRequest, *, service: Service, owner: str, session_id: str | None
) -> list[Turn]:
    if session_id is None:
        return await service.answer_alone(
            body.turns(),
            sampling=body.sampling(),
            owner=owner,
            lane=f"{owner}/{body.user or ''}",
            n=body.n,
            use=body.tool_use(),
        )
    _check_alone(body)
    session = await run_in_threadpool(service.session, session_id, owner=owner)
    has_parent = body.fluvial is not None and "parent" in body.fluvial.model_fields_set
    parent = body.fluvial.parent if body.fluvial is not None and has_parent else UNSET
    turn = await service.answer(session, body.turns(), parent=parent, sampling=body.sampling())
    return [turn]


def _check_alone(body: ChatRequest) -> None:
    """Refuse what has no place in a session, which keeps one answer of text to each question."""
    for param, given in (("n", body.n > 1), ("tools", bool(body.tools))):
        if given:
            raise UnsupportedError(f"{param} is not supported inside a session", param=param)


def _check_model(body: ChatRequest, *, service: Service) -> None:
    if body.model != service.model.name:
        raise NotFoundError(
            f"the model {body.model[:80]!r} is not being served; {service.model.name!r} is",
            code="model_not_found",
            param="model",
        )
    if body.stream_options is not None and not body.stream:
        raise InputError("stream_options is only for streams", param="stream_options")


def _session_id(body: ChatRequest, *, header: str | None) -> str | None:
    given = body.fluvial.session if body.fluvial is not None else None
    if given is not None and header is not None and given != header:
        raise InputError(
            "the header Fluvial-Session names another session than fluvial.session",
            param="fluvial.session",
        )
    if given is None and header is None and body.fluvial is not None:
        raise InputError("fluvial.session is missing", param="fluvial.session")
    return given or header


async def _collect(request: Request, answer: Completion) -> Response:
    """Wait for the answer, or for the client to leave."""
    whole = asyncio.create_task(answer.collect())
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait([whole, gone], return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            return JSONResponse(whole.result())
        return Response(status_code=499)  # nobody is there to read it
    finally:
        answer.cancel()
        whole.cancel()
        gone.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
