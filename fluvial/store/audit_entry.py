"""One entry of the audit log: a line of canonical JSON that names the entry before it by its hash.

Canonical: keys sorted, no spaces, ASCII only. `sha256` is over that JSON of all other fields, so
whoever has a line can check it with nothing but SHA-256.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, cast

Value = str | int | float | bool | None
Detail = Mapping[str, Value]

FIRST_PREVIOUS = "0" * 64
"""What stands for the hash of the entry before the first."""

MAX_VALUE_CHARS = 2000
"""Longest text in an entry. What people write belongs in none of them."""

MAX_VALUES = 64
MAX_LINE_BYTES = 64 * 2**10

_KIND = re.compile(r"[a-z]{1,40}\.[a-z_]{1,40}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One act: what, when (seconds since the epoch), by whom, on what. Numbers count from 1."""

    number: int
    time: float
    kind: str
    actor: str
    subject: str
    detail: Detail
    previous: str

    @property
    def sha256(self) -> str:
        """Return the hash that the next entry names."""
        return hashlib.sha256(_canonical(vars(self))).hexdigest()

    def encode(self) -> bytes:
        """Return the entry's line."""
        return _canonical({**vars(self), "sha256": self.sha256}) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Self:
        """Read a line. Raises ValueError, saying why, for one that `encode` did not write."""
        found = _parse(line)
        sha256 = found.pop("sha256", None)
        names = {field.name for field in fields(cls)}
        if set(found) != names:
            raise ValueError(f"its fields are not {', '.join(sorted(names))} and sha256")
        entry = cls(**found)
        check(entry)
        if entry.sha256 != sha256:
            raise ValueError("its content is not what its own sha256 says")
        if entry.encode() != line:
            raise ValueError("it is not written as the log writes")
        return entry


def check(entry: Entry) -> None:
    """Raise ValueError for what can't be an entry, such as a text that is too long for one."""
    fields = (entry.number, entry.time, entry.kind, entry.actor, entry.subject, entry.previous)
    if [type(field) for field in fields] != [int, float, str, str, str, str]:
        raise ValueError("a field has the wrong type")
    if not _KIND.fullmatch(entry.kind):
        raise ValueError(f"{entry.kind[:80]!r} is no kind; one is such as 'guard.refused'")
    if len(entry.detail) > MAX_VALUES:
        raise ValueError(f"{len(entry.detail)} details are over the limit of {MAX_VALUES}")
    for name, value in (*entry.detail.items(), ("actor", entry.actor), ("subject", entry.subject)):
        if not isinstance(cast(object, value), str | int | float | bool | None):
            raise ValueError(f"detail {name!r} is neither a text nor a number nor true or false")
        if len(name) > MAX_VALUE_CHARS or len(str(value)) > MAX_VALUE_CHARS:
            raise ValueError(f"{name[:80]!r} is over the limit of {MAX_VALUE_CHARS} characters")
    size_bytes = len(entry.encode())  # raises for numbers that are not finite
    if size_bytes > MAX_LINE_BYTES:
        raise ValueError(f"{size_bytes} bytes are over the limit of {MAX_LINE_BYTES}")


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parse(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"it is over the limit of {MAX_LINE_BYTES} bytes")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    if not isinstance(found, dict) or not isinstance(found.get("detail"), dict):
        raise ValueError("it is no entry")
    return cast(dict[str, Any], found)
