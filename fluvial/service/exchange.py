"""Versions as files: our own, PEFT (a zip of its two files) and GGUF LoRA; out and in."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fluvial.adapt.bounding import Measure, bound, find_rank
from fluvial.adapt.history import History
from fluvial.adapt.naming import make_canonical
from fluvial.config import Settings
from fluvial.errors import InputError, UnsupportedError
from fluvial.model.adapter import Tensors
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.exchange import export_gguf, export_peft, import_gguf, import_peft
from fluvial.model.exchange.gain import Fold
from fluvial.model.opening import AnyCheckpoint
from fluvial.service.archive import pack, unpack
from fluvial.service.merging import LEAST_LOSS
from fluvial.service.model import Served
from fluvial.service.record import Record
from fluvial.service.version import Versions
from fluvial.types import Session, Version
from fluvial.version_note import Compressed, Imported

Format = Literal["fluvial", "peft", "gguf"]

MAX_RANK = 64
SUFFIXES: dict[Format, str] = {"fluvial": "safetensors", "peft": "zip", "gguf": "gguf"}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A version as a file, and the share of its change that the format could not hold."""

    name: str
    data: bytes
    loss: float


@dataclass(frozen=True, kw_only=True)
class Taken:
    """The version made of a file, its format, and the share of its change that was lost."""

    version: Version
    format: Format
    loss: float


class Exchange:
    """Writes and reads versions in the formats of others. `checkpoint` is the model served."""

    def __init__(
        self,
        *,
        settings: Settings,
        served: Served,
        history: History,
        versions: Versions,
        record: Record,
        checkpoint: AnyCheckpoint | None,
        measure: Measure | None,
    ) -> None:
        self._budget = settings.drift_budget
        self._served = served
        self._history = history
        self._versions = versions
        self._record = record
        self._checkpoint = checkpoint
        self._measure = measure

    def write(
        self, session: Session, handle: str, *, format: Format, lossy: bool = False
    ) -> Exported:
        """Return a version as a file of this format.

        PEFT and GGUF can't say gains: with `lossy` they go as well as they can into low-rank
        terms, without it such a version raises UnsupportedError. So does a model without a
        declaration.
        """
        made = self._write(session, handle, format=format, lossy=lossy)
        self._record.note_act("version.exported", session, file=made.name)
        return made

    def _write(self, session: Session, handle: str, *, format: Format, lossy: bool) -> Exported:
        version = self._versions.find(session, handle)
        name = f"{session.id}-{version.number}.{SUFFIXES[format]}"
        if format == "fluvial":
            data = self._history.read(session, version)
            return Exported(name=name, data=data, loss=0.0)
        self._served.require(session)
        checkpoint = self._require_declared()
        adapter = self._history.load(session, version.number)
        assert adapter is not None  # noqa: S101 - `find` refuses the base
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            fold = Fold(checkpoint=checkpoint) if lossy else None
            declaration = checkpoint.declaration
            if format == "gguf":
                loss = export_gguf(adapter.tensors, declaration=declaration, path=path, fold=fold)
            else:
                loss = export_peft(
                    adapter.tensors,
                    declaration=declaration,
                    base_name=session.model,
                    folder=Path(folder) / "peft",
                    fold=fold,
                )
                pack(Path(folder) / "peft", path)
            return Exported(name=name, data=path.read_bytes(), loss=loss.overall)

    def take(self, session: Session, data: bytes, *, rank: int | None = None) -> Taken:
        """Put the adapter in a file in force as a new version; readings under way stop.

        What format it is, its first bytes tell. Groups of a rank over `rank` (None: MAX_RANK) are
        compressed to it. Raises ModelError for a file that is damaged or does not fit the model,
        UnsupportedError, and otherwise as `Merging.merge` does.
        """
        self._served.require(session)
        if rank is not None and not 1 <= rank <= MAX_RANK:
            raise InputError(f"rank must be 1 to {MAX_RANK}, not {rank}", param="rank")
        format = recognise(data)
        tensors, loss = self._read(session, data, format=format, rank=rank or MAX_RANK)
        bounded = bound(tensors, budget=self._budget, measure=self._measure)
        lost = [Compressed(rank=find_rank(tensors), loss=loss)] if loss >= LEAST_LOSS else []
        version = self._versions.put(
            session,
            lambda now: self._history.add(
                now,
                bounded.tensors,
                origin="import",
                parents=(),
                rule=make_canonical({"import": format}),
                drift=bounded.drift,
                scale=bounded.scale,
                notes=(Imported(format=format), *lost, *bounded.notes),
            ),
        )
        return Taken(version=version, format=format, loss=loss)

    def _read(
        self, session: Session, data: bytes, *, format: Format, rank: int
    ) -> tuple[Tensors, float]:
        if format == "fluvial":
            tensors = self._history.decode(data)
            if find_rank(tensors) > MAX_RANK:
                raise UnsupportedError(f"its rank is {find_rank(tensors)}; at most {MAX_RANK}")
            return tensors, 0.0
        declaration = self._require_declared().declaration
        with tempfile.TemporaryDirectory() as folder:
            if format == "gguf":
                path = Path(folder) / "adapter.gguf"
                path.write_bytes(data)
                found = import_gguf(path, declaration=declaration, rank_limit=rank)
            else:
                unpack(data, Path(folder))
                found = import_peft(Path(folder), declaration=declaration, rank_limit=rank)
            return found.tensors, found.loss.overall

    def _require_declared(self) -> Checkpoint:
        if not isinstance(self._checkpoint, Checkpoint):
            raise UnsupportedError(
                "this model has no declaration; its versions go out and in as format fluvial only",
                param="format",
            )
        return self._checkpoint


def recognise(data: bytes) -> Format:
    """Tell the format of a file by its first bytes."""
    if data[:4] == b"GGUF":
        return "gguf"
    return "peft" if data[:2] == b"PK" else "fluvial"
