"""The gate's files: read with a limit and checked field by field, or refused with the reason.

Fields that are not known are refused too: a bar that is spelled wrong must not fall back to a
default.
"""

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fluvial.errors import InputError, NotFoundError, StorageError, TooLargeError

T = TypeVar("T")

MAX_COUNT = 1_000_000_000
"""The most samples, clusters or trials that are counted. The bounds are exact up to here."""

STRICT = ConfigDict(extra="forbid")
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Positive = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
OpenShare = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Moment = Annotated[float, Field(ge=0, le=2.5e11, allow_inf_nan=False)]
"""Seconds since the epoch, up to the year 9892: what every calendar can write."""

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Label = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Text = Annotated[str, Field(max_length=4000)]


def read_bytes(path: Path, *, limit_bytes: int) -> bytes:
    """Return a file's bytes. Raises NotFoundError, StorageError, TooLargeError."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError:
        raise NotFoundError(f"no file at {path}") from None
    except OSError as error:
        raise StorageError(f"{path} can't be read: {error}", code="storage_failed") from None
    if len(data) > limit_bytes:
        raise TooLargeError(f"{path.name} is longer than {limit_bytes} bytes")
    return data


def read_table(data: bytes, *, name: str) -> dict[str, Any]:
    """Return the TOML or JSON object in `data`; TOML where `name` ends in .toml. InputError."""
    try:
        text = data.decode("utf-8")
        found: object = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "TOML" if name.endswith(".toml") else "JSON"
        raise InputError(f"{name} is not valid {kind}: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{name} holds {type(found).__name__}, where an object is due")
    return cast(dict[str, Any], found)


def build(kind: type[T], fields: object, *, name: str) -> T:
    """Return the dataclass `kind` of these JSON fields. Raises InputError, which names the field.

    A number is never made of a text, nor a whole one of a fraction.
    """
    try:
        text = json.dumps(fields, allow_nan=False)
        return _adapt(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        given = f", not {first['input']!r:.80}" if first["type"] != "missing" else ""
        raise InputError(f"{name}: {place}: {first['msg']}{given}", param=place) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name} holds what JSON can't: {error}") from None


def dump(kind: type[T], value: T) -> dict[str, Any]:
    """Return a dataclass as JSON's objects, lists, texts and numbers."""
    return _adapt(kind).dump_python(value, mode="json")


@cache
def _adapt(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)
