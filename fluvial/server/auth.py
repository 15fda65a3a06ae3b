"""Who is calling. Every route passes through `identify`, and needs the key unless marked open."""

import hmac
import ipaddress
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends
from starlette.requests import Request

from fluvial.config import Settings
from fluvial.errors import AuthError, ForbiddenError, InputError
from fluvial.service.release import require_settings

LOCAL_OWNER = "local"
"""The only owner while there are no accounts."""


Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def open_route(endpoint: Endpoint) -> Endpoint:
    """Mark an endpoint as one that needs no key: it shows nothing of anyone's."""
    endpoint.is_open = True  # pyright: ignore[reportFunctionMemberAccess]
    return endpoint


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a server that listens on `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_exposure(settings: Settings) -> None:
    """Refuse to listen where others can reach, but for a released model behind a key.

    Raises InputError, also where production is asked for without naming a release.
    """
    require_settings(settings)
    if is_loopback(settings.host):
        return
    if settings.mode == "development":
        raise InputError(
            f"listening on {settings.host} would serve others a model that is not released: in "
            "development this server listens on 127.0.0.1 alone, also with an API key. Test and "
            "sign a release and set mode, release and release_key (see docs/safety.md), or reach "
            f"this server through a tunnel: ssh -L {settings.port}:127.0.0.1:{settings.port} HOST",
            param="host",
        )
    if settings.api_key is None:
        raise InputError(
            f"listening on {settings.host} would let anyone in the network use this server; set an "
            "API key first (FLUVIAL_API_KEY), or listen on 127.0.0.1",
            param="host",
        )


def identify(request: Request) -> str:
    """Name the caller of a request, the owner of what it may see.

    Routes marked `open_route` need no key. Raises AuthError when a key is set and was not given,
    and ForbiddenError when none is set and the server can be reached from other machines.
    """
    settings: Settings = request.app.state.service.settings
    if getattr(request.scope["endpoint"], "is_open", False):
        return LOCAL_OWNER
    if settings.api_key is not None:
        _check_key(request, key=settings.api_key.get_secret_value())
    elif not is_loopback(settings.host):
        raise ForbiddenError("this server has no API key set, and answers only its own machine")
    return LOCAL_OWNER


Owner = Annotated[str, Depends(identify)]
"""The caller, for routes that need its name."""


def _check_key(request: Request, *, key: str) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # Compared as bytes: a header may hold anything, and compare_digest takes only ASCII strings.
    same = hmac.compare_digest(given.strip().encode(errors="replace"), key.encode())
    if scheme.lower() != "bearer" or not same:
        raise AuthError("this server needs its API key: Authorization: Bearer KEY")
