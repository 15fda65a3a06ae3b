"""What requests may hold, and what all bodies share. Unknown fields are refused by name.

A field that is null counts as not given. A known field whose value asks for nothing but what is
done anyway is accepted, because clients send such defaults. Chat completions: `completion.py`.
"""

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from fluvial.types import Learning


def unsupported(message: str) -> PydanticCustomError:
    """Make the error of a value that is known, but not supported."""
    # The braces of a template language would be filled in from a context that is not given.
    return PydanticCustomError("unsupported", "{why}", {"why": message})


def drop_neutral(data: Any, *, neutral: dict[str, tuple[object, ...]]) -> Any:
    """Leave out nulls and known fields whose value changes nothing; the rest is refused later."""
    if not isinstance(data, dict):
        return data
    return {
        key: value
        for key, value in data.items()
        if value is not None and not _is_neutral(value, neutral.get(key, ()))
    }


def _is_neutral(value: object, allowed: tuple[object, ...]) -> bool:
    # In Python True == 1, in JSON it does not.
    return any(value == each and type(value) is type(each) for each in allowed)


def _check_unicode(text: str) -> str:
    # JSON can spell half of a surrogate pair; no text holds one, and nothing below could store it.
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError(
            "surrogate",
            "not valid Unicode: a lone surrogate at character {start}",
            {"start": error.start},
        ) from None
    return text


def only(*known: str) -> Any:
    """Make a validator that refuses other words as not supported, rather than as wrong."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in known:
            raise unsupported(f"{value[:40]!r} is not supported; use {' or '.join(known)}")
        return value

    return check


Text = Annotated[str, AfterValidator(_check_unicode)]


def _check_schema(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        _check_unicode(json.dumps(schema, ensure_ascii=False))
    except RecursionError:
        raise PydanticCustomError("deep", "nested too deep") from None
    return schema


Schema = Annotated[dict[str, Any], AfterValidator(_check_schema)]


class Body(BaseModel):
    """Base of all bodies: JSON types are not converted, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class NewSession(Body):
    """The body of `POST /v1/sessions`."""

    title: Text = ""


class SessionChange(Body):
    """The body of `PATCH /v1/sessions/{id}`."""

    title: Text | None = None
    learning: Learning | None = None


class NewReading(Body):
    """The JSON body of `POST /v1/sessions/{id}/readings`."""

    name: Text
    text: Text


class VersionChange(Body):
    """The body of `PATCH /v1/sessions/{id}/versions/{version}`."""

    pinned: bool


class NewBranch(Body):
    """The body of `POST /v1/sessions/{id}/versions/{version}/branch`."""

    title: Text = ""
    messages: bool = False


class NewPublication(Body):
    """The body of `POST /v1/sessions/{id}/versions/{version}/publish`."""

    name: Text


class Adoption(Body):
    """The body of `POST /v1/sessions/{id}/versions/adopt`."""

    published: Text


class MergePart(Body):
    """One version of a merge: of this session, of another `session` of one's own, or published."""

    version: Text | None = None
    session: Text | None = None
    published: Text | None = None
    weight: float = 1.0


class NewMerge(Body):
    """The body of `POST /v1/sessions/{id}/versions/merge`."""

    parts: list[MergePart]
    rank: int | None = None


class NewComparison(Body):
    """The body of `POST /v1/sessions/{id}/compare`."""

    a: Text
    b: Text
    text: Text
