"""Canaries that an operator wrote: read from a file of theirs, checked, never told again."""

import json
import tomllib
from pathlib import Path
from typing import Any, cast

from fluvial.errors import InputError
from fluvial.gate.canary import Canary
from fluvial.gate.document import read_bytes

MAX_FILE_BYTES = 2**20
MAX_OPERATOR_CANARIES = 64


def read_canaries(path: Path) -> list[Canary]:
    """Return the canaries of an operator's file: TOML with [[canary]] tables, or JSON lines.

    Each has `prompt` and `criteria`, and may have `kind` (else it is policy), `system`, `turns`.
    Raises InputError that names the file and which canary of it, but never what one says;
    NotFoundError; TooLargeError.
    """
    data = read_bytes(path, limit_bytes=MAX_FILE_BYTES)
    try:
        text = data.decode("utf-8")
        if path.suffix == ".toml":
            rows: Any = tomllib.loads(text).get("canary", [])
        else:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        raise InputError(f"{path.name} is neither valid TOML nor JSON lines") from None
    if not isinstance(rows, list) or not 1 <= len(cast(list[Any], rows)) <= MAX_OPERATOR_CANARIES:
        raise InputError(f"{path.name} must hold 1 to {MAX_OPERATOR_CANARIES} canaries")
    return [_read_canary(row, f"{path.name}, canary {n}") for n, row in enumerate(rows, 1)]


def _read_canary(row: Any, name: str) -> Canary:
    try:
        fields: dict[str, Any] = {"kind": "policy", **row}
        turns = tuple((str(asked), str(said)) for asked, said in fields.pop("turns", ()))
        canary = Canary(**fields, turns=turns)
        canary.accepts("no answer in particular")  # its criteria can be used
    except InputError as error:
        raise InputError(f"{name}: {error.message}") from None
    except (TypeError, ValueError, AttributeError):
        raise InputError(
            f"{name}: it has prompt and criteria, and may have kind, system and turns"
        ) from None
    return canary
