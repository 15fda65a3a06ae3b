"""What routes are given: the service, and the caller's session that the path names."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from fluvial.server.auth import Owner
from fluvial.service import Service
from fluvial.types import Session


def find_service(request: Request) -> Service:
    """Return the service that the app was made with."""
    return request.app.state.service


Served = Annotated[Service, Depends(find_service)]


def find_session(session_id: str, service: Served, owner: Owner) -> Session:
    """Find the session of the path. Raises NotFoundError, also when it is another owner's."""
    return service.session(session_id, owner=owner)


Found = Annotated[Session, Depends(find_session)]
