"""Keep what is built of a checkpoint: its graph and its transposes, checked before each use.

A folder appears only when complete (built beside, then renamed). Its manifest holds the sha256 of
each file; one that differs is built again, so that a damaged cache is never run.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime

from fluvial.errors import StorageError
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.graph import GRAPH_FILE, GRAPH_VERSION, WEIGHTS_FILE, Progress, build
from fluvial.model.loss import TypeLoss, decode_losses, encode_losses
from fluvial.model.transposed import (
    DATA_FILE,
    INDEX_FILE,
    TRANSPOSED_VERSION,
    write_transposed,
)

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"


def ensure_graph(
    checkpoint: Checkpoint,
    *,
    cache_dir: Path,
    positions: int,
    whole: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Return the folder of the checkpoint's graph, building it when it is missing or damaged.

    `positions` is the longest sequence it must take; `whole` keeps weights in float32.
    Raises StorageError when there is no room.
    """

    def write(folder: Path) -> dict[str, Any]:
        losses = build(
            checkpoint, folder=folder, positions=positions, whole=whole, progress=progress
        )
        return {"weights": encode_losses(losses)}

    folder = cache_dir / _name(checkpoint, positions, whole=whole)
    return _ensure(folder, files=(GRAPH_FILE, WEIGHTS_FILE), write=write)


def hash_graph(
    checkpoint: Checkpoint, *, cache_dir: Path, positions: int, whole: bool = False
) -> str:
    """Return the sha256 over the files of the graph that `ensure_graph` made, as they are now."""
    folder = cache_dir / _name(checkpoint, positions, whole=whole)
    hashes = _hash_files(folder, (GRAPH_FILE, WEIGHTS_FILE))
    lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def ensure_transposed(
    checkpoint: Checkpoint, *, cache_dir: Path, progress: Progress | None = None
) -> Path:
    """Return the folder of the checkpoint's packed transposes, made where missing or damaged.

    Raises StorageError when there is no room.
    """

    def write(folder: Path) -> dict[str, Any]:
        write_transposed(checkpoint, folder=folder, progress=progress)
        return {}

    folder = cache_dir / f"{checkpoint.sha256[:32]}-transposed-{TRANSPOSED_VERSION}"
    return _ensure(folder, files=(INDEX_FILE, DATA_FILE), write=write)


def _ensure(
    folder: Path, *, files: tuple[str, ...], write: Callable[[Path], dict[str, Any]]
) -> Path:
    """Return a folder that holds sound `files`; `write` makes them, and what else is noted."""
    if _is_sound(folder, files):
        return folder
    if folder.exists():
        log.warning("what was built in %s is damaged; building it again", folder)
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="building-", dir=folder.parent))
    try:
        noted = write(fresh)
        manifest = {"files": _hash_files(fresh, files), **noted}
        (fresh / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        os.replace(fresh, folder)
    except OSError as error:
        if not _is_sound(folder, files):
            raise StorageError(f"{folder} could not be written: {error}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _name(checkpoint: Checkpoint, positions: int, *, whole: bool) -> str:
    engine = ".".join(onnxruntime.__version__.split(".")[:2])
    form = "float32" if whole else "packed"
    return f"{checkpoint.sha256[:32]}-{form}-g{GRAPH_VERSION}-ort{engine}-p{positions}"


def read_losses(cache_dir: Path, *, sha256: str) -> tuple[TypeLoss, ...] | None:
    """Return what packing cost the model named `sha256`; None before its graph has been built."""
    for manifest in sorted(cache_dir.glob(f"{sha256[:32]}-packed-*/{MANIFEST_FILE}"), reverse=True):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return decode_losses(json.loads(manifest.read_text(encoding="utf-8"))["weights"])
    return None


def _is_sound(folder: Path, files: tuple[str, ...]) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("files") == _hash_files(folder, files)


def _hash_files(folder: Path, files: tuple[str, ...]) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for name in files:
        try:
            hashes[name] = _hash_file(folder / name, (folder / name).stat())
        except OSError:
            hashes[name] = "missing"
    return hashes


def _hash_file(path: Path, found: os.stat_result) -> str:
    """Hash a file once as long as it is the same: a start asks for the same hashes twice."""
    return _hash_once(path, (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))


@functools.lru_cache(maxsize=16)
def _hash_once(path: Path, _: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
