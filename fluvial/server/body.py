"""Bodies of requests: bounded while they stream in, strict once they are here."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, NoReturn, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from fluvial.errors import InputError, TooLargeError
from fluvial.server.error import explain

DRAIN_S = 10.0
"""How long a body over the limit is read and thrown away, so that its sender gets to hear of it."""

FORM_BYTES = 64 * 1024
"""What a multipart body may hold beside its file."""

Model = TypeVar("Model", bound=BaseModel)


async def read_json(request: Request, model: type[Model], *, limit_bytes: int) -> Model:
    """Read a JSON object from the body and validate it.

    Raises TooLargeError over `limit_bytes`, InputError for what is not UTF-8, not JSON (NaN and
    doubled names are not) or nested too deep, and UnsupportedError for unknown fields.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    data = b"".join([part async for part in stream(request, limit_bytes=limit_bytes)])
    if kind != "application/json" and data:
        raise InputError(
            f"the body's content type is {kind[:80]!r}; it must be application/json",
            code="content_type",
        )
    try:
        return model.model_validate(parse(data) if data else {})
    except ValidationError as error:
        raise explain(error.errors(include_url=False, include_input=False)) from None


def parse(data: bytes) -> Any:
    """Parse strict JSON. Raises InputError that says where it is wrong."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"the body is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            code="invalid_utf8",
        ) from None
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise InputError("the body is nested too deep", code="invalid_json") from None
    except json.JSONDecodeError as error:
        raise InputError(
            f"the body is not JSON: {error.msg} at character {error.pos}", code="invalid_json"
        ) from None
    except ValueError:  # an integer of thousands of digits
        raise InputError("the body holds a number that is too long", code="invalid_json") from None


async def read_file(request: Request, *, limit_bytes: int) -> tuple[str, bytes]:
    """Read the one part `file` of a multipart body; return its name and its bytes."""
    parts = stream(request, limit_bytes=limit_bytes + FORM_BYTES)
    parser = MultiPartParser(request.headers, parts, max_files=1, max_fields=0)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as error:
        why = getattr(error, "message", "it has no boundary or wrong headers")
        raise InputError(f"the body is not a multipart form with one file: {why}") from None
    try:
        return await _take(form.get("file"), limit_bytes=limit_bytes)
    finally:
        await form.close()


async def stream(request: Request, *, limit_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield the body part by part; raises TooLargeError as soon as it is over the limit."""
    declared = request.headers.get("content-length", "0")
    size = int(declared[:20]) if declared.isdecimal() else 0
    if size > limit_bytes:
        await _refuse(request, limit_bytes=limit_bytes, more=True)
    size, more = 0, True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        size += len(part)
        if size > limit_bytes:
            await _refuse(request, limit_bytes=limit_bytes, more=more)
        yield part


async def _refuse(request: Request, *, limit_bytes: int, more: bool) -> NoReturn:
    """Throw the rest of the body away, then say that it is too large.

    Closing the connection at once would reset it under a sender that is still writing, and the
    sender would never see why. One that waits for `100 Continue` has sent nothing yet.
    """
    waits = request.headers.get("expect", "").lower() == "100-continue"
    if more and not waits:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(_drain(request), timeout=DRAIN_S)
    raise TooLargeError(f"the body is over the limit of {limit_bytes} bytes")


async def _drain(request: Request) -> None:
    more = True
    while more:
        message = await request.receive()
        more = message["type"] == "http.request" and message.get("more_body", False)


async def _take(part: UploadFile | str | None, *, limit_bytes: int) -> tuple[str, bytes]:
    if not isinstance(part, UploadFile):
        raise InputError("the form must hold one part named file", param="file")
    if part.size is not None and part.size > limit_bytes:
        raise TooLargeError(f"the file is over the limit of {limit_bytes} bytes", param="file")
    return part.filename or "", await part.read()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InputError("the body holds a name twice in one object", code="invalid_json")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise InputError(f"the body holds {name}, which is not JSON", code="invalid_json")


def describe_body(model: type[BaseModel]) -> dict[str, Any]:
    """Make the OpenAPI part that describes a JSON body, since routes read bodies themselves."""
    schema = model.model_json_schema()
    whole = _inline(schema, defined=schema.pop("$defs", {}))
    return {"requestBody": {"content": {"application/json": {"schema": whole}}}}


def _inline(node: Any, *, defined: dict[str, Any]) -> Any:
    """Put each definition in the place of the references to it; none of ours is recursive."""
    if isinstance(node, list):
        return [_inline(each, defined=defined) for each in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(defined[node["$ref"].rsplit("/", 1)[-1]], defined=defined)
    return {key: _inline(value, defined=defined) for key, value in node.items()}
