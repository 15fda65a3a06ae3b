"""The models installed under `data_dir/models`: one folder each, complete or not there at all.

    models/NAME/model.gguf | *.safetensors, config.json, tokenizer files      models/NAME/model.json
    models/.partial/NAME-…                                                    transfers under way

A folder gets its name by one rename, after its files are hashed, checked and on the disk: so a
crash leaves nothing that looks installed, and what was downloaded is there to go on from.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from fluvial.errors import ConflictError, ModelError, NotFoundError, SourceError
from fluvial.model.catalogue import Entry, check_name, load_catalogue
from fluvial.model.source import Delivery, Progress, Silent, parse
from fluvial.model.source.base import MODEL_FILE
from fluvial.model.source.disk import guard_disk, require_space, sync_folder
from fluvial.types import ModelInfo

INFO_FILE = "model.json"


class Registry:
    """The installed models of one data directory. Safe to use from several processes."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "models"

    def get(self, name: str) -> ModelInfo:
        """Return an installed model.

        Raises NotFoundError (says what is installed, and what the catalogue offers) or ModelError
        when its record is damaged.
        """
        folder = self.folder / check_name(name)
        if not (folder / INFO_FILE).is_file():
            raise NotFoundError(self._describe_missing(name), param="model")
        return _read_info(folder)

    def list(self) -> "list[ModelInfo]":
        """Return all sound models by name. Folders that are not ours, or damaged, are left out."""
        found: list[ModelInfo] = []
        for name in self._names():
            try:
                found.append(_read_info(self.folder / name))
            except ModelError:
                continue
        return found

    def damaged(self) -> "list[str]":
        """Return the names of installed models whose record or file can't be used."""
        sound = {info.name for info in self.list()}
        return [name for name in self._names() if name not in sound]

    def ensure(
        self, name: str, *, offline: bool = False, progress: Progress | None = None
    ) -> ModelInfo:
        """Return model `name`, installing it from the catalogue when it is missing.

        Raises NotFoundError when it is missing and unknown, or missing while `offline`.
        """
        try:
            return self.get(name)
        except NotFoundError:
            entry = load_catalogue().get(name)
            if entry is None:
                raise
        if offline:
            raise NotFoundError(
                f"model {name} is not installed, and offline is set; "
                f"run `fluvial models pull {name}` where there is a network",
                param="model",
            )
        return self.install(entry, progress=progress)

    def install(
        self, entry: Entry, *, progress: Progress | None = None, link: bool = False
    ) -> ModelInfo:
        """Bring `entry` from its first source that delivers; if it is there already, return it.

        Raises ConflictError (another model has that name, or another process is at it), SourceError
        (every source failed; says how each did), StorageError, ModelError (the file is not a sound
        model).
        """
        progress = progress or Silent()
        with guard_disk(self.folder), self._lock(entry.name):
            present = self._find_present(entry)
            if present is not None:
                return present
            self._sweep()
            delivery, spec, work = self._obtain(entry, progress, link)
            info = _describe(entry, delivery, spec)
            _write_info(delivery.folder, info)
            delivery.folder.rename(self.folder / entry.name)
            sync_folder(self.folder)
            for leftover in self._partial.glob(f"{entry.name}-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            shutil.rmtree(work, ignore_errors=True)
        return self.get(entry.name)

    def remove(self, name: str) -> int:
        """Delete a model, damaged or not, and its partial downloads; return the bytes freed."""
        folder = self.folder / check_name(name)
        partials = list(self._partial.glob(f"{name}-{'?' * 12}"))
        if not (folder / INFO_FILE).is_file() and not partials:
            raise NotFoundError(self._describe_missing(name), param="model")
        freed = 0
        with guard_disk(self.folder), self._lock(name):
            for doomed in (folder, *partials):
                freed += _measure(doomed)
                self._discard(doomed)
        return freed

    @property
    def _partial(self) -> Path:
        return self.folder / ".partial"

    def _names(self) -> "list[str]":
        if not self.folder.is_dir():
            return []
        folders = (f for f in self.folder.iterdir() if not f.name.startswith("."))
        return sorted(f.name for f in folders if (f / INFO_FILE).is_file())

    def _describe_missing(self, name: str) -> str:
        installed = ", ".join(self._names()) or "none"
        known = ", ".join(load_catalogue())
        return f"no model {name} is installed (installed: {installed}; in the catalogue: {known})"

    @contextmanager
    def _lock(self, name: str) -> Generator[None]:
        self._partial.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._partial / f"{name}.lock", timeout=0):
                yield
        except Timeout:
            raise ConflictError(f"another process is installing or removing {name}") from None

    def _find_present(self, entry: Entry) -> ModelInfo | None:
        folder = self.folder / entry.name
        if not folder.exists():
            return None
        present = _read_info(folder)
        if entry.sha256 is not None and present.sha256 == entry.sha256:
            return present
        raise ConflictError(
            f"another model is installed as {entry.name} (from {present.source}); "
            "remove it first, or choose another --name"
        )

    def _obtain(self, entry: Entry, progress: Progress, link: bool) -> tuple[Delivery, str, Path]:
        reasons: list[str] = []
        for rank, spec in enumerate(entry.sources):
            try:
                return self._obtain_from(spec, entry, progress, link)
            except SourceError as error:
                reasons.append(f"{spec.partition(':')[0]}: {error.message}")
                if rank + 1 < len(entry.sources):
                    progress.note(f"passing over {spec}: {error.message}")
        raise SourceError(f"no source delivered {entry.name}: {'; '.join(reasons)}")

    def _obtain_from(
        self, spec: str, entry: Entry, progress: Progress, link: bool
    ) -> tuple[Delivery, str, Path]:
        source = parse(spec, link=link)
        plan = source.contact()
        tag = hashlib.sha256(source.spec.encode()).hexdigest()[:12]
        work = self._partial / f"{entry.name}-{tag}"
        work.mkdir(parents=True, exist_ok=True)
        content = 0 if link else (entry.bytes or plan.content_bytes or 0)
        needed = content + plan.scratch_bytes - _measure(work)
        require_space(self.folder, needed_bytes=max(0, needed))
        delivery = source.deliver(work, progress=progress)
        try:
            _check(entry, delivery)
        except (SourceError, ModelError):
            shutil.rmtree(work, ignore_errors=True)
            raise
        return delivery, source.spec, work

    def _discard(self, folder: Path) -> None:
        """Delete `folder` so that even a crash leaves nothing under its name."""
        if folder.exists():
            trash = self._partial / f".trash-{uuid4().hex}"
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)

    def _sweep(self) -> None:
        for trash in self._partial.glob(".trash-*"):
            shutil.rmtree(trash, ignore_errors=True)


def _check(entry: Entry, delivery: Delivery) -> None:
    """Refuse a delivery that is not what was asked for, or not a model."""
    if entry.sha256 is not None and entry.sha256 != delivery.sha256:
        raise SourceError(
            f"the file delivered has sha256 {delivery.sha256 or '(it is several files)'}, "
            f"but {entry.sha256} is expected; it was deleted"
        )
    _read_family(delivery.folder)


def _describe(entry: Entry, delivery: Delivery, spec: str) -> ModelInfo:
    sha256 = delivery.sha256 or _hash_folder(delivery.folder)
    known = next((e for e in load_catalogue().values() if e.sha256 == sha256), entry)
    return ModelInfo(
        name=entry.name,
        family=_read_family(delivery.folder),
        languages=known.languages,
        licence=known.licence,
        bytes=_measure(delivery.folder),
        sha256=sha256,
        source=spec,
        path="",
        created_at=time.time(),
    )


def _read_family(folder: Path) -> str:
    """Return the architecture that the model's own file names, else raise ModelError."""
    file = folder / MODEL_FILE
    if file.is_file():
        from fluvial.model.gguf import read

        family = read(file).metadata.get("general.architecture")
    else:
        try:
            family = json.loads((folder / "config.json").read_bytes()).get("model_type")
        except (ValueError, AttributeError, OSError) as error:
            raise ModelError(f"config.json of the model can't be read: {error}") from None
    if not isinstance(family, str) or not family:
        raise ModelError("the model does not name its architecture")
    return family


def _hash_folder(folder: Path) -> str:
    """Hash a model of several files: the sha256 over its `HASH  NAME` lines, sorted by name."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.name != INFO_FILE:
            with file.open("rb") as data:
                line = f"{hashlib.file_digest(data, 'sha256').hexdigest()}  {file.name}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def _measure(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _write_info(folder: Path, info: ModelInfo) -> None:
    table = {key: value for key, value in asdict(info).items() if key != "path"}
    with (folder / INFO_FILE).open("w", encoding="utf-8") as file:
        json.dump(table, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _read_info(folder: Path) -> ModelInfo:
    """Read a model's record; its path is where it is now, so that a data directory can move."""
    model = folder / MODEL_FILE
    try:
        table: dict[str, Any] = json.loads((folder / INFO_FILE).read_bytes())
        table |= {"path": "", "languages": tuple(table["languages"])}
        info = ModelInfo(**table)
        whole = all(_fits(getattr(info, f.name), f.name) for f in fields(info))
        if not whole or info.name != folder.name:
            raise ValueError("a value has the wrong type")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"the record of model {folder.name} is damaged ({error}); "
            "remove the model and pull it again"
        ) from None
    if not model.is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"the file of model {folder.name} is missing; remove it and pull it again")
    return replace(info, path=str(model if model.is_file() else folder))


def _fits(value: object, name: str) -> bool:
    kinds: dict[str, type | tuple[type, ...]] = {
        "bytes": int,
        "created_at": (int, float),
        "languages": tuple,
    }
    return isinstance(value, kinds.get(name, str))
