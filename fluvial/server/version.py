"""The versions of a session's adapter: see them, put one in force, take them away."""

from typing import Any

from fastapi import APIRouter, Response
from starlette.responses import FileResponse

from fluvial.server.access import Found, Served
from fluvial.server.view import view_session, view_version

router = APIRouter(prefix="/v1/sessions/{session_id}/versions")


@router.get("")
def list_versions(session: Found, service: Served) -> dict[str, Any]:
    """List the versions, oldest first; the base is not among them."""
    found = service.versions(session)
    versions = [view_version(version) for version in found.versions]
    return {"object": "list", "current": found.current, "data": versions}


@router.delete("")
def forget_versions(session: Found, service: Served) -> dict[str, Any]:
    """Forget everything that was learned."""
    return view_session(service.session_state(service.forget(session)))


@router.post("/{number}/restore")
def restore_version(number: int, session: Found, service: Served) -> dict[str, Any]:
    """Put a version in force; 0 is the base."""
    return view_session(service.session_state(service.restore(session, number)))


@router.get("/{number}/export")
def export_version(number: int, session: Found, service: Served) -> FileResponse:
    """Hand out an adapter as safetensors."""
    return FileResponse(
        service.version_file(session, number),
        media_type="application/octet-stream",
        filename=f"{session.id}-{number}.safetensors",
    )


@router.delete("/{number}", status_code=204)
def delete_version(number: int, session: Found, service: Served) -> Response:
    """Delete one version that is not in force."""
    service.delete_version(session, number)
    return Response(status_code=204)
