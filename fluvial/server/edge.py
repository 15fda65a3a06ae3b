"""What every request and answer passes: request ids, host and origin checks, headers.

The checks keep a web page of someone else's from using a server that trusts its own machine: one
whose name was pointed at 127.0.0.1 (DNS rebinding) sends its own name as Host; one that posts
across origins sends its own as Origin.
"""

import logging
import secrets
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fluvial.errors import EngineError, FluvialError, ForbiddenError
from fluvial.server.auth import is_loopback
from fluvial.server.error import respond

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)

SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

log = logging.getLogger(__name__)


class Edge:
    """The outermost layer. `loopback_only`: only this machine can reach the server."""

    def __init__(self, app: ASGIApp, *, loopback_only: bool) -> None:
        self._app = app
        self._loopback_only = loopback_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, request_id=f"req_{secrets.token_hex(12)}")
        try:
            self._check(scope)
            await self._app(scope, receive, answer.send)
        except FluvialError as error:
            if answer.started:
                raise
            await respond(error)(scope, receive, answer.send)
        except ClientDisconnect:
            return  # it left while it was still sending: nobody waits for an answer
        except Exception:
            log.exception("request %s failed", answer.request_id)
            if answer.started:
                raise
            failure = EngineError(
                f"the server failed; its log says more under {answer.request_id}",
                code="internal_error",
            )
            await respond(failure)(scope, receive, answer.send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._loopback_only and not is_loopback(_host_name(host)):
            raise ForbiddenError(
                f"this server answers to localhost, 127.0.0.1 and [::1], not to {host[:80]!r}",
                code="wrong_host",
            )
        origin = headers.get("origin")
        if origin is None or scope["method"] in SAFE_METHODS:
            return
        if _origin_host(origin) != host.lower():
            raise ForbiddenError(
                f"requests from pages of {origin[:80]!r} are not accepted", code="wrong_origin"
            )


class _Answer:
    """Adds the headers to an answer, and notes that it has begun."""

    def __init__(self, send: Send, *, request_id: str) -> None:
        self.request_id = request_id
        self.started = False
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            for name, value in SECURITY_HEADERS.items():
                headers[name] = value
            headers.setdefault("cache-control", "no-store")
        await self._send(message)


def _host_name(host: str) -> str:
    """Take the port from a Host header; empty where it is malformed."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _origin_host(origin: str) -> str:
    """Take host and port from an Origin header; empty for `null` and what is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""
