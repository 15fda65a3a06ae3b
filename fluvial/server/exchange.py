"""Versions as files, out and in."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fluvial.server.access import Found, Served
from fluvial.server.body import read_file
from fluvial.server.view_version import view_version
from fluvial.service.exchange import MAX_RANK, Format

LOSS_HEADER = "fluvial-loss"

router = APIRouter(prefix="/v1/sessions/{session_id}/versions")


@router.get("/{version}/export")
def export_version(
    version: str,
    session: Found,
    service: Served,
    format: Format = "fluvial",
    lossy: bool = False,
) -> Response:
    """Hand out a version as a file; what the format could not hold is told in a header."""
    made = service.exchange.write(session, version, format=format, lossy=lossy)
    headers = {
        "content-disposition": f'attachment; filename="{made.name}"',
        LOSS_HEADER: f"{made.loss:.6g}",
    }
    return Response(made.data, media_type="application/octet-stream", headers=headers)


@router.post("/import", status_code=201)
async def import_version(
    request: Request,
    session: Found,
    service: Served,
    rank: Annotated[int | None, Query(ge=1, le=MAX_RANK)] = None,
) -> dict[str, Any]:
    """Put the adapter in an uploaded file in force as a new version."""
    _, data = await read_file(request, limit_bytes=service.settings.max_adapter_bytes)
    taken = await run_in_threadpool(lambda: service.exchange.take(session, data, rank=rank))
    return {**view_version(taken.version), "format": taken.format, "loss": taken.loss}
