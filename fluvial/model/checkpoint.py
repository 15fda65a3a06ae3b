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
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.architecture.field import Fields
from fluvial.model.architecture.name import list_shapes, translate
from fluvial.model.gguf import RawTensor

MAX_LAYERS = 1024


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

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return embeddings float32 [tokens, width], dequantising only the rows asked for."""
        return self.weights["embedding"].dequantize(token_ids)

    @property
    def head(self) -> RawTensor:
        return self.weights["embedding" if self.declaration.tied_head else "head"]


def open_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Open a GGUF file or a safetensors folder and check that it is whole.

    With `sha256`, the bytes must have that hash. Raises ModelError for a model that is damaged,
    incomplete or not supported.
    """
    if not path.exists():
        raise ModelError(f"there is no model at {path}")
    found = hash_files(path)
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"{path.name} is damaged: its sha256 is {found[:12]}…, {sha256[:12]}… was installed. "
            "Remove the model and pull it again"
        )
    return _open_folder(path, found) if path.is_dir() else _open_file(path, found)


def hash_files(path: Path) -> str:
    """Return the sha256 (hex) naming a model: of a file, or of a folder's names and file hashes."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.suffix in (".safetensors", ".json", ".jinja"):
            whole.update(f"{file.name}:{hash_files(file)}\n".encode())
    return whole.hexdigest()


def _open_file(path: Path, sha256: str) -> Checkpoint:
    file = gguf.read(path)
    family = find_family(file.metadata.get("general.architecture"), by="GGUF_NAME")
    embedding = _require(file.tensors, "token_embd.weight")
    fields = Fields(
        values=file.metadata,
        prefix=f"{family.GGUF_NAME}.",
        family=family.GGUF_NAME,
        vocab_size=embedding.shape[0],
        tied_head="output.weight" not in file.tensors,
        qkv_bias=family.QKV_BIAS,
    )
    if "rope_freqs.weight" in file.tensors:
        raise ModelError(f"{path.name} uses rotary frequency factors, which are not supported yet")
    declaration = _check_declaration(family.declare_from_gguf(fields))
    weights = _collect(file.tensors, declaration, in_gguf=True)
    if family.INTERLEAVED_IN_GGUF:
        _separate_halves(weights, declaration)
    return Checkpoint(
        path=path, sha256=sha256, declaration=declaration, metadata=file.metadata, weights=weights
    )


def _open_folder(path: Path, sha256: str) -> Checkpoint:
    config = _read_config(path / "config.json")
    family = find_family(config.get("model_type"), by="CONFIG_NAME")
    tensors = safetensor.read(path)
    embedding = _require(tensors, "model.embed_tokens.weight")
    fields = Fields(
        values=config,
        prefix="",
        family=family.CONFIG_NAME,
        vocab_size=embedding.shape[0],
        tied_head=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=family.QKV_BIAS,
    )
    declaration = _check_declaration(family.declare_from_config(fields))
    weights = _collect(tensors, declaration, in_gguf=False)
    return Checkpoint(
        path=path, sha256=sha256, declaration=declaration, metadata={}, weights=weights
    )


def _read_config(path: Path) -> dict[str, object]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} can't be read as JSON: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a JSON object")
    return config


def _check_declaration(declaration: Declaration) -> Declaration:
    attention = declaration.layers[0].mixer
    if len(declaration.layers) > MAX_LAYERS:
        raise ModelError(
            f"{len(declaration.layers)} layers is more than the {MAX_LAYERS} supported"
        )
    if attention.heads % attention.kv_heads or attention.head_width % 2:
        raise ModelError(
            f"{attention.heads} heads of width {attention.head_width} don't go with "
            f"{attention.kv_heads} key heads"
        )
    return declaration


def _require(tensors: Mapping[str, RawTensor], name: str) -> RawTensor:
    if name not in tensors:
        raise ModelError(f"the model has no tensor {name!r}; the file is incomplete")
    return tensors[name]


def _collect(
    tensors: Mapping[str, RawTensor], declaration: Declaration, *, in_gguf: bool
) -> dict[str, RawTensor]:
    weights: dict[str, RawTensor] = {}
    for name, shape in list_shapes(declaration).items():
        tensor = _require(tensors, translate(name, gguf=in_gguf))
        if tensor.shape != shape:
            raise ModelError(
                f"tensor {tensor.name!r} has shape {tensor.shape}, the model needs {shape}"
            )
        weights[name] = tensor
    return weights


def _separate_halves(weights: dict[str, RawTensor], declaration: Declaration) -> None:
    """Undo GGUF's interleaving of rotary pairs: rows (2i, 2i+1) of a head become (i, i + half)."""
    for index, layer in enumerate(declaration.layers):
        for part in ("q", "k"):
            name = f"layers.{index}.{part}"
            raw = weights[name]
            rows = np.arange(raw.shape[0])
            half = layer.mixer.head_width // 2
            order = rows.reshape(-1, half, 2).swapaxes(1, 2).reshape(-1)
            weights[name] = RawTensor(raw.name, raw.type, raw.shape, raw.blocks[order])
