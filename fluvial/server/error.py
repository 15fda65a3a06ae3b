"""Errors on the wire: one shape, OpenAI's, on every route."""

import math
from http import HTTPStatus
from typing import Any

from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fluvial.errors import BusyError, FluvialError, InputError, UnsupportedError

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "overloaded_error",
}

NAMED_CHARS = 80
"""Longest field name that an error repeats."""


def describe(error: FluvialError) -> dict[str, Any]:
    """Make the JSON body of an error."""
    return describe_as(error.status, message=error.message, code=error.code, param=error.param)


def describe_as(
    status: int, *, message: str, code: str, param: str | None = None
) -> dict[str, Any]:
    """Make the JSON body of an error with this HTTP status."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "code": code, "param": param}}


def respond(error: FluvialError) -> Response:
    """Answer a request with an error."""
    headers = _headers(error.status)
    if isinstance(error, BusyError):
        headers = {"retry-after": str(math.ceil(error.retry_after_s))}
    return JSONResponse(describe(error), status_code=error.status, headers=headers)


async def handle_fluvial(_: Request, error: Exception) -> Response:
    """Turn an error raised on purpose into its answer."""
    assert isinstance(error, FluvialError)  # noqa: S101 - registered for this class only
    return respond(error)


async def handle_http(_: Request, error: Exception) -> Response:
    """Turn the router's own errors (no such route, wrong method) into the same shape."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    body = describe_as(error.status_code, message=str(error.detail), code=code)
    headers = {**(error.headers or {}), **_headers(error.status_code)}
    return JSONResponse(body, status_code=error.status_code, headers=headers)


async def handle_validation(_: Request, error: Exception) -> Response:
    """Turn a query or path parameter that is out of range into the same shape."""
    found: list[Any] = list(getattr(error, "errors", list)())
    return respond(explain(found, skip=1))


def explain(errors: list[ErrorDetails], *, skip: int = 0) -> FluvialError:
    """Turn pydantic's findings into one error that names the field to blame.

    `skip` leaves out the first parts of the location (FastAPI puts "query" there).
    """
    first = errors[0]
    # A check of several fields together says itself which one is to blame.
    blamed = (first.get("ctx") or {}).get("param")
    param = locate((*first["loc"][skip:], *([blamed] if blamed else [])))
    if first["type"] == "extra_forbidden":
        return UnsupportedError(f"{param} is unknown or not supported so", param=param)
    if first["type"] == "unsupported":
        return UnsupportedError(f"{param}: {first['msg']}", param=param)
    message = first["msg"][:1].lower() + first["msg"][1:]
    return InputError(f"{param or 'the body'}: {message}", param=param or None)


def locate(loc: tuple[int | str, ...]) -> str:
    """Write a location as people do: `messages[0].content`."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
    # A hostile name may be megabytes long or hold half a surrogate pair.
    clean = text.encode(errors="replace").decode()
    return clean if len(clean) <= NAMED_CHARS else clean[:NAMED_CHARS] + "…"


def _headers(status: int) -> dict[str, str]:
    # The official client retries these by itself; only a person can do something about them.
    return {"x-should-retry": "false"} if status in (409, 500, 503, 507) else {}
