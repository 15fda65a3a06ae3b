"""Versions that their owners share: published under a name, adopted by others."""

from typing import Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fluvial.server.access import Found, Served
from fluvial.server.auth import Owner
from fluvial.server.body import describe_body, read_json
from fluvial.server.schema import Adoption, NewPublication
from fluvial.server.view_version import view_publication, view_version

router = APIRouter(prefix="/v1")


@router.get("/published")
def list_publications(service: Served, owner: Owner) -> dict[str, Any]:
    """List what is published on this server, by name."""
    found = service.publications.list_all()
    return {"object": "list", "data": [view_publication(each, owner=owner) for each in found]}


@router.delete("/published/{name}", status_code=204)
def withdraw_publication(name: str, service: Served, owner: Owner) -> Response:
    """Take a publication of one's own back; adopted copies stay."""
    service.publications.withdraw(name, owner=owner)
    return Response(status_code=204)


@router.post(
    "/sessions/{session_id}/versions/{version}/publish",
    status_code=201,
    openapi_extra=describe_body(NewPublication),
)
async def publish_version(
    version: str, request: Request, session: Found, service: Served
) -> dict[str, Any]:
    """Publish a copy of a version to everyone on this server."""
    body = await read_json(request, NewPublication, limit_bytes=service.settings.max_body_bytes)
    made = await run_in_threadpool(
        lambda: service.publications.publish(session, version, name=body.name)
    )
    return view_publication(made, owner=session.owner)


@router.post(
    "/sessions/{session_id}/versions/adopt",
    status_code=201,
    openapi_extra=describe_body(Adoption),
)
async def adopt_publication(request: Request, session: Found, service: Served) -> dict[str, Any]:
    """Put a copy of a published version in force in a session."""
    body = await read_json(request, Adoption, limit_bytes=service.settings.max_body_bytes)
    made = await run_in_threadpool(lambda: service.publications.adopt(session, body.published))
    return view_version(made)
