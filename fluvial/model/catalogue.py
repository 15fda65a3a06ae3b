"""The models that Fluvial knows by name: what they are, and where they come from."""

import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any

from fluvial.errors import InputError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that can be installed. `bytes` and `sha256` are None where not known beforehand."""

    name: str
    sources: tuple[str, ...]
    family: str = ""
    languages: tuple[str, ...] = ()
    licence: str = "unknown"
    bytes: int | None = None
    sha256: str | None = None
    summary: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not self.sources:
            raise InputError(f"model {self.name} has no source")
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise InputError(
                f"{self.sha256!r} is not a sha256: 64 hexadecimal digits in lower case"
            )


def check_name(name: str) -> str:
    """Return `name` when it can name a model; it becomes a folder's name, so it is never a path.

    Raises InputError saying what is allowed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} can't name a model: use 1 to 64 of a-z 0-9 . _ -, a letter or a digit first",
            param="model",
        )
    return name


@cache
def load_catalogue() -> dict[str, Entry]:
    """Return the catalogue by name, in its own order (the default first)."""
    text = files("fluvial.model").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return parse_catalogue(text)


def parse_catalogue(text: str) -> dict[str, Entry]:
    """Read catalogue TOML. Raises InputError naming what is unknown, missing or given twice."""
    known = {field.name for field in fields(Entry)}
    found: dict[str, Entry] = {}
    for table in tomllib.loads(text).get("model", []):
        if unknown := set(table) - known:
            raise InputError(f"unknown key {sorted(unknown)[0]!r} in catalogue entry {table!r}")
        values = _freeze_lists(table)
        try:
            entry = Entry(**values)
        except TypeError as error:
            raise InputError(f"catalogue entry {table!r}: {error}") from None
        if entry.name in found:
            raise InputError(f"the catalogue names {entry.name} twice")
        found[entry.name] = entry
    return found


def _freeze_lists(table: dict[str, Any]) -> dict[str, Any]:
    lists = {key: tuple(table[key]) for key in ("sources", "languages") if key in table}
    return {**table, **lists}
