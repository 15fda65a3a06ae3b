"""A checkpoint: tensors, hyperparameters, tokenizer data of one model file or folder; immutable.

Whatever the file's own conventions, weights come out under the names of `architecture.declaration`
and in Hugging Face's row order. The sha256 of the bytes names it: of the file, or of the folder's
file hashes.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model import gguf, safetensor
from fluvial.model.architecture import find_family
from fluvial.model.architecture.check import check_declaration
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.architecture.field import MAX_HEAD_WIDTH, Fields, is_finite
from fluvial.model.architecture.name import Names
from fluvial.model.gguf import RawTensor
from fluvial.model.weight import collect, require

INFO_FILE = "model.json"
"""The registry's own record of an installed model, beside its files."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Checkpoint:
    """A model at rest. `metadata` is the GGUF file's, or empty for a folder."""

    path: Path
    sha256: str
    declaration: Declaration
    metadata: Mapping[str, object]
    weights: Mapping[str, RawTensor]

    def vector(self, name: str) -> NDArray[np.float32]:
        """Return a one-dimensional weight as float32 [n]."""
        return self.weights[name].dequantize().reshape(-1)

    def matrix(self, name: str) -> NDArray[np.float32]:
        """Return a weight as float32 [outputs, inputs]."""
        return self.weights[name].dequantize()

    @property
    def head(self) -> RawTensor:
        return self.weights["embedding" if self.declaration.tied_head else "head"]


def open_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Open a GGUF file or a safetensors folder and check that it is whole.

    With `sha256`, the bytes must have that hash. Raises ModelError for a model that is damaged,
    incomplete or not supported.
    """
    found = check_hash(path, sha256)
    return _open_folder(path, found) if path.is_dir() else _open_file(path, found)


def check_hash(path: Path, sha256: str | None) -> str:
    """Return the hash that names the model at `path`; ModelError when it is not `sha256`."""
    if not path.exists():
        raise ModelError(f"there is no model at {path}")
    found = hash_files(path)
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"{path.name} is damaged: its sha256 is {found[:12]}…, {sha256[:12]}… was installed. "
            "Remove the model and pull it again"
        )
    return found


def hash_files(path: Path) -> str:
    """Return the sha256 (hex) naming a model, as the registry records it.

    A folder's is over the `HASH  NAME` lines of its files, sorted by name.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.name != INFO_FILE:
            whole.update(f"{hash_files(file)}  {file.name}\n".encode())
    return whole.hexdigest()


def _open_file(path: Path, sha256: str) -> Checkpoint:
    file = gguf.read(path)
    family = find_family(file.metadata.get("general.architecture"), in_gguf=True)
    fields = Fields(
        values=file.metadata,
        prefix=f"{family.gguf}.",
        keys={name: keys[0] for name, keys in family.keys.items()},
        family=family.gguf,
        vocab_size=_count_tokens(file.tensors, family.gguf_names),
        tied_head="output.weight" not in file.tensors,
        in_gguf=True,
        rope_factors=_read_rope_factors(file.tensors),
    )
    declaration = check_declaration(family.declare(fields))
    return Checkpoint(
        path=path,
        sha256=sha256,
        declaration=declaration,
        metadata=file.metadata,
        weights=collect(file.tensors, declaration=declaration, names=family.gguf_names),
    )


def _open_folder(path: Path, sha256: str) -> Checkpoint:
    config = _read_config(path / "config.json")
    family = find_family(config.get("model_type"), in_gguf=False)
    tensors = safetensor.read(path)
    fields = Fields(
        values=config,
        prefix="",
        keys={name: keys[1] for name, keys in family.keys.items()},
        family=family.gguf,
        vocab_size=_count_tokens(tensors, family.config_names),
        tied_head=_is_tied(config, tensors),
        in_gguf=False,
    )
    declaration = check_declaration(family.declare(fields))
    return Checkpoint(
        path=path,
        sha256=sha256,
        declaration=declaration,
        metadata={},
        weights=collect(tensors, declaration=declaration, names=family.config_names),
    )


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return config


def _count_tokens(tensors: Mapping[str, RawTensor], names: Names) -> int:
    return require(tensors, str(names.whole["embedding"])).shape[0]


def _is_tied(config: Mapping[str, object], tensors: Mapping[str, RawTensor]) -> bool:
    """Say whether the head is the embedding: `transformers` leaves out what is at its default."""
    tied = config.get("tie_word_embeddings")
    return tied if isinstance(tied, bool) else "lm_head.weight" not in tensors


def _read_rope_factors(tensors: Mapping[str, RawTensor]) -> tuple[float, ...] | None:
    factors = tensors.get("rope_freqs.weight")
    if factors is None:
        return None
    if len(factors.shape) != 1 or factors.shape[0] > MAX_HEAD_WIDTH:
        raise ModelError(f"rope_freqs.weight has shape {factors.shape}; it must be one row")
    values = tuple(factors.dequantize().tolist())
    if not is_finite(values):
        raise ModelError("rope_freqs.weight holds values that are not finite and positive")
    return values
