"""The versions of a session's adapter: see, compare, keep, put in force, branch, delete."""

from typing import Any

from fastapi import APIRouter, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from fluvial.server.access import Found, Served
from fluvial.server.body import describe_body, read_json
from fluvial.server.schema import NewBranch, NewComparison, NewMerge, VersionChange
from fluvial.server.view import view_session
from fluvial.server.view_version import view_comparison, view_version, view_versions
from fluvial.service.merging import Part

router = APIRouter(prefix="/v1/sessions/{session_id}")


@router.get("/versions")
def list_versions(session: Found, service: Served) -> dict[str, Any]:
    """List the versions, oldest first; the base is not among them."""
    return view_versions(service.versions.list_all(session))


@router.delete("/versions")
def forget_versions(session: Found, service: Served) -> dict[str, Any]:
    """Forget everything that was learned."""
    return view_session(service.session_state(service.versions.forget(session)))


@router.post("/versions/merge", status_code=201, openapi_extra=describe_body(NewMerge))
async def merge_versions(request: Request, session: Found, service: Served) -> dict[str, Any]:
    """Put the weighted sum of several versions in force."""
    body = await read_json(request, NewMerge, limit_bytes=service.settings.max_body_bytes)
    parts = [Part(**part.model_dump()) for part in body.parts]
    merged = await run_in_threadpool(lambda: service.merging.merge(session, parts, rank=body.rank))
    return {**view_version(merged.version), "loss": merged.loss}


@router.post("/compare", openapi_extra=describe_body(NewComparison))
async def compare_versions(request: Request, session: Found, service: Served) -> dict[str, Any]:
    """Score a text under two versions and under the base."""
    body = await read_json(request, NewComparison, limit_bytes=service.settings.max_body_bytes)
    found = await run_in_threadpool(
        lambda: service.comparisons.compare(session, body.a, body.b, text=body.text)
    )
    return view_comparison(found)


@router.get("/versions/{version}")
def show_version(version: str, session: Found, service: Served) -> dict[str, Any]:
    """Show one version."""
    return view_version(service.versions.find(session, version))


@router.patch("/versions/{version}", openapi_extra=describe_body(VersionChange))
async def change_version(
    version: str, request: Request, session: Found, service: Served
) -> dict[str, Any]:
    """Pin a version, so that quota and expiry leave it, or no longer."""
    body = await read_json(request, VersionChange, limit_bytes=service.settings.max_body_bytes)
    changed = await run_in_threadpool(
        lambda: service.versions.pin(session, version, pinned=body.pinned)
    )
    return view_version(changed)


@router.delete("/versions/{version}", status_code=204)
def delete_version(version: str, session: Found, service: Served) -> Response:
    """Delete one version that is not in force, for good."""
    service.versions.delete(session, version)
    return Response(status_code=204)


@router.post("/versions/{version}/restore")
def restore_version(version: str, session: Found, service: Served) -> dict[str, Any]:
    """Put a version in force; 0 is the base."""
    return view_session(service.session_state(service.versions.restore(session, version)))


@router.post("/versions/{version}/branch", status_code=201, openapi_extra=describe_body(NewBranch))
async def branch_version(
    version: str, request: Request, session: Found, service: Served
) -> dict[str, Any]:
    """Begin a session with a copy of a version in force; 0 is the base."""
    body = await read_json(request, NewBranch, limit_bytes=service.settings.max_body_bytes)

    def branch() -> dict[str, Any]:
        made = service.versions.branch(session, version, title=body.title, messages=body.messages)
        return view_session(service.session_state(made))

    return await run_in_threadpool(branch)
