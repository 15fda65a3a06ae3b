"""`/v1/models`: the model being served, and those installed."""

from typing import Any

from fastapi import APIRouter

from fluvial.errors import NotFoundError
from fluvial.server.access import Served
from fluvial.server.view import view_model
from fluvial.server.view_release import view_clearance
from fluvial.service import Service

router = APIRouter(prefix="/v1/models")


@router.get("")
def list_models(service: Served) -> dict[str, Any]:
    """List the models; the one being served comes first."""
    return {"object": "list", "data": _view_all(service)}


@router.get("/{name:path}")
def show_model(name: str, service: Served) -> dict[str, Any]:
    """Show one model."""
    for model in _view_all(service):
        if model["id"] == name:
            return model
    raise NotFoundError(
        f"no model {name[:80]!r} is installed", code="model_not_found", param="model"
    )


def _view_all(service: Service) -> list[dict[str, Any]]:
    views: list[dict[str, Any]] = []
    for model in service.models():
        served = model.sha256 == service.model.sha256
        view = view_model(model, served=served)
        if served:
            view["fluvial"] |= view_clearance(service.clearance)
        views.append(view)
    return views
