"""`/healthz`: whether the server answers, and how its learner is."""

from typing import Any

from fastapi import APIRouter

from fluvial import __version__
from fluvial.server.access import Served
from fluvial.server.auth import open_route

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
    }
