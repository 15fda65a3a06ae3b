"""`POST /v1/chat/completions`: OpenAI's shape, stream and not, with Fluvial's session beside it."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fluvial.errors import EngineError, FluvialError, InputError, NotFoundError
from fluvial.server.access import Served
from fluvial.server.auth import Owner
from fluvial.server.body import describe_body, read_json
from fluvial.server.error import describe
from fluvial.server.schema import ChatRequest
from fluvial.server.sse import EventStream, encode_event
from fluvial.server.view import view_receipt, view_usage
from fluvial.service import Service
from fluvial.service.turn import Turn
from fluvial.store import UNSET
from fluvial.types import FinishReason, Usage

router = APIRouter(prefix="/v1/chat")


@router.post("/completions", openapi_extra=describe_body(ChatRequest))
async def complete_chat(request: Request, service: Served, owner: Owner) -> Response:
    """Answer a conversation."""
    body = await read_json(request, ChatRequest, limit_bytes=service.settings.max_body_bytes)
    _check_model(body, service=service)
    session_id = _session_id(body, header=request.headers.get("fluvial-session"))
    turn = await _begin(body, service=service, owner=owner, session_id=session_id)
    answer = _Answer(turn, model=service.model.name)
    if not body.stream:
        return await _collect(request, answer)
    usage = body.stream_options is not None and body.stream_options.include_usage
    return EventStream(answer.stream(include_usage=usage), on_close=turn.cancel)


async def _begin(
    body: ChatRequest, *, service: Service, owner: str, session_id: str | None
) -> Turn:
    if session_id is None:
        lane = f"{owner}/{body.user or ''}"
        return await service.answer_alone(body.turns(), sampling=body.sampling(), lane=lane)
    session = await run_in_threadpool(service.session, session_id, owner=owner)
    has_parent = body.fluvial is not None and "parent" in body.fluvial.model_fields_set
    parent = body.fluvial.parent if body.fluvial is not None and has_parent else UNSET
    return await service.answer(session, body.turns(), parent=parent, sampling=body.sampling())


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


class _Answer:
    """Writes a turn in OpenAI's objects."""

    def __init__(self, turn: Turn, *, model: str) -> None:
        self.turn = turn
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._model = model

    async def stream(self, *, include_usage: bool) -> AsyncIterator[bytes]:
        """Yield the chunks: the role, the text, the end, perhaps the usage, `[DONE]`."""
        yield self._chunk({"role": "assistant", "content": ""}, receipt=True)
        try:
            async for delta in self.turn:
                if delta.text:
                    yield self._chunk({"content": delta.text})
                if delta.finish is not None:
                    yield self._chunk({}, receipt=True, finish=delta.finish)
                    if include_usage and delta.usage is not None:
                        yield self._usage(delta.usage)
        except FluvialError as error:
            # The status line is long gone: the client learns of it here, and sees no [DONE].
            yield encode_event(describe(error), event="error")
            return
        yield encode_event(b"[DONE]")

    async def collect(self) -> dict[str, Any]:
        """Wait for the end of the answer and make the whole completion of it."""
        text: list[str] = []
        async for delta in self.turn:
            text.append(delta.text)
            if delta.finish is not None and delta.usage is not None:
                return self._whole("".join(text), finish=delta.finish, usage=delta.usage)
        raise EngineError("the answer ended without a reason")

    def _whole(self, text: str, *, finish: FinishReason, usage: Usage) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = _choice("message", message, finish=finish)
        frame = self._frame("chat.completion", choices=[choice], receipt=True, finish=finish)
        return frame | {"usage": view_usage(usage)}

    def _chunk(
        self, delta: dict[str, str], *, receipt: bool = False, finish: FinishReason | None = None
    ) -> bytes:
        choices = [_choice("delta", delta, finish=finish)]
        frame = self._frame(
            "chat.completion.chunk", choices=choices, receipt=receipt, finish=finish
        )
        return encode_event(frame)

    def _usage(self, usage: Usage) -> bytes:
        frame = self._frame("chat.completion.chunk", choices=[])
        return encode_event(frame | {"usage": view_usage(usage)})

    def _frame(
        self,
        kind: str,
        *,
        choices: list[dict[str, Any]],
        receipt: bool = False,
        finish: FinishReason | None = None,
    ) -> dict[str, Any]:
        frame: dict[str, Any] = {
            "id": self._id,
            "object": kind,
            "created": int(self.turn.created_at),
            "model": self._model,
            "choices": choices,
        }
        if receipt and self.turn.receipt is not None:
            frame["fluvial"] = view_receipt(self.turn.receipt) | {"finish": finish}
        return frame


def _choice(name: str, content: dict[str, Any], *, finish: FinishReason | None) -> dict[str, Any]:
    # OpenAI has no word for an answer that someone stopped; `fluvial.finish` has ours. One that
    # met its deadline is cut short, as by a length.
    reason = "length" if finish == "deadline" else finish
    reason = reason if reason in (None, "length") else "stop"
    return {"index": 0, name: content, "logprobs": None, "finish_reason": reason}


async def _collect(request: Request, answer: _Answer) -> Response:
    """Wait for the answer, or for the client to leave."""
    whole = asyncio.create_task(answer.collect())
    gone = asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait([whole, gone], return_when=asyncio.FIRST_COMPLETED)
        if whole.done():
            return JSONResponse(whole.result())
        return Response(status_code=499)  # nobody is there to read it
    finally:
        answer.turn.cancel()
        whole.cancel()
        gone.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
