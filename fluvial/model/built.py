"""Keep built graphs: one folder per checkpoint and graph version, checked before each use.

A folder appears only when complete (built beside, then renamed). Its manifest holds the sha256 of
each file; one that differs is built again, so that a damaged cache is never run.
"""

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

log = logging.getLogger(__name__)

MANIFEST_FILE = "manifest.json"


def ensure_graph(
    checkpoint: Checkpoint, *, cache_dir: Path, positions: int, progress: Progress | None = None
) -> Path:
    """Return the folder of the checkpoint's graph, building it when it is missing or damaged.

    `positions` is the longest sequence it must take. Raises StorageError when there is no room.
    """
    folder = cache_dir / _name(checkpoint, positions)
    if _is_sound(folder):
        return folder
    if folder.exists():
        log.warning("the built graph in %s is damaged; building it again", folder)
        shutil.rmtree(folder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="building-", dir=cache_dir))
    try:
        build(checkpoint, folder=fresh, positions=positions, progress=progress)
        (fresh / MANIFEST_FILE).write_text(json.dumps(_hash_files(fresh)), encoding="utf-8")
        os.replace(fresh, folder)
    except OSError as error:
        if not _is_sound(folder):
            raise StorageError(
                f"the decoding graph could not be written to {cache_dir}: {error}"
            ) from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _name(checkpoint: Checkpoint, positions: int) -> str:
    engine = ".".join(onnxruntime.__version__.split(".")[:2])
    return f"{checkpoint.sha256[:32]}-g{GRAPH_VERSION}-ort{engine}-p{positions}"


def _is_sound(folder: Path) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return manifest == _hash_files(folder)


def _hash_files(folder: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for name in (GRAPH_FILE, WEIGHTS_FILE):
        try:
            with (folder / name).open("rb") as file:
                hashes[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            hashes[name] = "missing"
    return hashes
