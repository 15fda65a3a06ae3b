"""`/healthz`: whether the server answers, and how its learner is."""

from typing import Any

from fastapi import APIRouter

from fluvial import __version__
from fluvial.server.access import Served
from fluvial.server.auth import open_route
from fluvial.server.view_release import view_briefly, view_standing

router = APIRouter()


@router.get("/healthz")
@open_route
async def show_health(service: Served) -> dict[str, Any]:
    """Tell that the server answers, and with what."""
    return {
        "status": "ok",
        "model": service.model.name,
        "version": __version__,
        "learner": service.learner_state,
        "release": view_standing(service.clearance.tell()),
        "subjects": view_briefly(service.clearance.subjects),
        "guard": "off" if service.guarding.guard is None else "on",
        "audit": "failing" if service.audit.missed else "ok",
    }
