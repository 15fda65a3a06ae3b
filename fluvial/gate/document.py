"""The gate's files: read with a limit and checked field by field, or refused with the reason.

Fields that are not known are refused too: a bar that is spelled wrong must not fall back to a
default.
"""

import json
import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from fluvial.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    StorageError,
    TooLargeError,
)

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
        found: object = (
            tomllib.loads(text)
            if name.endswith(".toml")
            else json.loads(text, object_pairs_hook=_refuse_doubles)
        )
    except (ValueError, RecursionError) as error:
        kind = "TOML" if name.endswith(".toml") else "JSON"
        raise InputError(f"{name} is not valid {kind}: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{name} holds {type(found).__name__}, where an object is due")
    return cast(dict[str, Any], found)


def write_new(path: Path, data: bytes, *, what: str, mode: int = 0o666) -> None:
    """Write a file that was not there before, whole or not at all; `what` names its kind.

    Raises ConflictError where there is one already, StorageError.
    """
    from fluvial.store.fault import translate_os

    with translate_os(f"writing {path}"):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except FileExistsError:
            raise ConflictError(f"{path} exists already; {what} is never written over") from None
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


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


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a field that stands twice: programs differ in which of the two they take."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)!r:.80} stands twice")
    return found


@cache
def _adapt(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)
