"""Keep built graphs: one folder per checkpoint and graph version, checked before each use.

A folder appears only when complete (built beside, then renamed). Its manifest holds the sha256 of
each file; one that differs is built again, so that a damaged cache is never run.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import onnxruntime

from fluvial.errors import StorageError
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.graph import GRAPH_FILE, GRAPH_VERSION, WEIGHTS_FILE, Progress, build
from fluvial.model.loss import TypeLoss, decode_losses, encode_losses

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
    folder = cache_dir / _name(checkpoint, positions, whole=whole)
    if _is_sound(folder):
        return folder
    if folder.exists():
        log.warning("the built graph in %s is damaged; building it again", folder)
        shutil.rmtree(folder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="building-", dir=cache_dir))
    try:
        losses = build(
            checkpoint, folder=fresh, positions=positions, whole=whole, progress=progress
        )
        manifest = {"files": _hash_files(fresh), "weights": encode_losses(losses)}
        (fresh / MANIFEST_FILE).write_text(json.dumps(manifest), encoding="utf-8")
        os.replace(fresh, folder)
    except OSError as error:
        if not _is_sound(folder):
            raise StorageError(
                f"the decoding graph could not be written to {cache_dir}: {error}"
            ) from None
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


def _is_sound(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and manifest.get("files") == _hash_files(folder)


def _hash_files(folder: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        try:
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            hashes[name] = "missing"
    return hashes
