"""Texts that a session reads, and the evidence of what reading them did."""

from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Query
from starlette.requests import Request

from fluvial.errors import InputError
from fluvial.retrieve.extract import extract, tidy
from fluvial.server.access import Found, Served
from fluvial.server.body import describe_body, read_file, read_json
from fluvial.server.schema import NewReading
from fluvial.server.view import view_reading, view_score
from fluvial.service import Service

EXTRACTIONS = 2
"""Documents taken apart at once; others wait. Each may hold a worker thread for seconds."""

router = APIRouter(prefix="/v1/sessions/{session_id}")
_limiter: anyio.CapacityLimiter | None = None


@router.post("/readings", status_code=202, openapi_extra=describe_body(NewReading))
async def add_reading(request: Request, session: Found, service: Served) -> dict[str, Any]:
    """Give a session a text to read."""
    kind = request.headers.get("content-type", "")
    read = _read_upload if kind.lower().startswith("multipart/") else _read_text
    name, text = await read(request, service)
    state = await run_sync(lambda: service.readings.add(session, name=name, text=text))
    return view_reading(state)


@router.get("/readings")
def list_readings(session: Found, service: Served) -> dict[str, Any]:
    """List what a session was given to read."""
    states = service.readings.list_all(session)
    return {"object": "list", "data": [view_reading(state) for state in states]}


@router.delete("/readings/{reading_id}")
def remove_reading(reading_id: str, session: Found, service: Served) -> dict[str, Any]:
    """Stop a reading if it is under way, and remove its text."""
    return view_reading(service.readings.remove(session, reading_id))


@router.get("/scores")
def list_scores(
    session: Found, service: Served, after: Annotated[int, Query(ge=0)] = 0
) -> dict[str, Any]:
    """List the evidence in the order it was read."""
    scores = service.readings.scores(session, after=after)
    return {"object": "list", "data": [view_score(index, score) for index, score in scores]}


async def _read_upload(request: Request, service: Service) -> tuple[str, str]:
    limit_bytes = service.settings.max_document_bytes
    name, data = await read_file(request, limit_bytes=limit_bytes)
    # A name is only shown, never a path; the folders that some browsers send are left out.
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    if not name:
        raise InputError("the file has no name", param="file")
    text = await run_sync(
        lambda: extract(data, name=name, limit_bytes=limit_bytes), limiter=_extractions()
    )
    return name, text


async def _read_text(request: Request, service: Service) -> tuple[str, str]:
    # JSON may write each byte of a text as up to two of its own in common use (\n, \").
    limit_bytes = 2 * service.settings.max_document_bytes
    body = await read_json(request, NewReading, limit_bytes=limit_bytes)
    return body.name, tidy(body.text)


def _extractions() -> anyio.CapacityLimiter:
    global _limiter  # made on first use: a limiter belongs to a running event loop
    if _limiter is None:
        _limiter = anyio.CapacityLimiter(EXTRACTIONS)
    return _limiter
