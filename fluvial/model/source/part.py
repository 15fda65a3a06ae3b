"""The text after `pypi:`, read into the members of wheels that it names."""

import re
from dataclasses import dataclass

from fluvial.errors import InputError

MAX_PARTS = 200
_RANGE = re.compile(r"\{(\d{1,4})\.\.(\d{1,4})\}")
_PART = re.compile(
    r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})==([A-Za-z0-9.!+_]{1,60})/([^\x00-\x1f\\]{1,300})"
)


@dataclass(frozen=True)
class Part:
    """One member of one wheel."""

    project: str
    version: str
    member: str


def parse_parts(text: str) -> list[Part]:
    """Read `NAME==VERSION/PATH`, `{a..b}` for parts. Raises InputError showing the right form."""
    return [_parse_part(one) for one in expand(text)]


def expand(text: str) -> list[str]:
    """Replace every `{a..b}` by its n-th number in the n-th copy of `text`; leading zeros are kept.

    Raises InputError when the ranges differ in length.
    """
    ranges = [(int(found[1]), int(found[2])) for found in _RANGE.finditer(text)]
    counts = {last - first + 1 for first, last in ranges} or {1}
    count = counts.pop()
    if counts or not 1 <= count <= MAX_PARTS:
        raise InputError(f"the ranges in pypi:{text} must be equally long, 1 to {MAX_PARTS} parts")

    def number(found: re.Match[str], offset: int) -> str:
        width = len(found[1]) if found[1].startswith("0") else 0
        return str(int(found[1]) + offset).zfill(width)

    return [_RANGE.sub(lambda found, n=n: number(found, n), text) for n in range(count)]


def _parse_part(text: str) -> Part:
    found = _PART.fullmatch(text)
    if found is None:
        raise InputError(f"pypi:{text} is not of the form pypi:NAME==VERSION/PATH/IN/WHEEL")
    member = found[3]
    if any(step in ("", ".", "..") for step in member.split("/")):
        raise InputError(f"{member!r} is not a plain path inside a wheel")
    return Part(found[1], found[2], member)
