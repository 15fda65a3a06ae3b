"""The state that reconfigures a checkpoint for one session, and the places where it applies.

Every linear layer group `y = W x` gets a low-rank term, `y = W x + B (A x)`; linears that read the
same input (query, key and value; gate and up) share one A. Every MLP activation gets a gain,
`h * (1 + g)`. B and the gains start at zero, so that a new adapter is exactly the base.

Tensors are stored to be multiplied from the right: `a` is [inputs, rank], `b` is [rank, outputs].
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Group

Tensors = Mapping[str, NDArray[np.float32]]

FORMAT = "fluvial-adapter-1"


class AdaptableLayer(Protocol):
    """One block: the linears that an adapter may change, and the width of its gain (0: none)."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
    @property
    def gain_width(self) -> int: ...


class Adaptable(Protocol):
    """What an adapter must know of a model: a Declaration is one, an Outline too."""

    @property
    def layers(self) -> Sequence[AdaptableLayer]: ...


@dataclass(frozen=True, eq=False)
class Adapter:
    """One immutable adapter. Equal keys mean equal tensors; None in its place means the base."""

    key: str
    tensors: Tensors

    @property
    def rank(self) -> int:
        return next(t.shape[1] for name, t in self.tensors.items() if name.endswith(".a"))


def list_shapes(declaration: Adaptable, *, rank: int) -> dict[str, tuple[int, ...]]:
    """Name every adapter tensor of a model with its shape, in graph order."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, layer in enumerate(declaration.layers):
        for group in layer.groups:
            shapes[f"layers.{index}.{group.name}.a"] = (group.inputs, rank)
            shapes[f"layers.{index}.{group.name}.b"] = (rank, group.outputs)
        if layer.gain_width:
            shapes[f"layers.{index}.gain"] = (layer.gain_width,)
    return shapes


def create_tensors(
    declaration: Adaptable, *, rank: int, seed: int
) -> dict[str, NDArray[np.float32]]:
    """Make an adapter that is exactly the base: A uniform in ±1/sqrt(inputs), B and gains zero."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in list_shapes(declaration, rank=rank).items():
        if name.endswith(".a"):
            bound = shape[0] ** -0.5
            tensors[name] = rng.uniform(-bound, bound, shape).astype(np.float32)
        else:
            tensors[name] = np.zeros(shape, np.float32)
    return tensors


def encode(tensors: Tensors, *, checkpoint: str) -> bytes:
    """Serialise as safetensors; the header names the checkpoint (sha256) the tensors belong to.

    Equal tensors give equal bytes.
    """
    metadata = {"format": FORMAT, "checkpoint": checkpoint}
    data = safetensors.numpy.save(dict(tensors), metadata=metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    # The library writes the metadata in an order that changes from call to call.
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


def decode(
    data: bytes, *, declaration: Adaptable, checkpoint: str
) -> dict[str, NDArray[np.float32]]:
    """Read what `encode` wrote and hold it against the model.

    Raises ModelError when the bytes are damaged, belong to another checkpoint, or do not fit.
    """
    header = _read_header(data)
    if header.get("checkpoint") != checkpoint:
        raise ModelError(
            f"this adapter was learned on checkpoint {str(header.get('checkpoint'))[:12]}…, "
            f"not on {checkpoint[:12]}…; adapters only fit the exact weights they grew on"
        )
    try:
        tensors = safetensors.numpy.load(data)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"the adapter file is damaged: {error}") from None
    _check(tensors, declaration=declaration)
    return tensors


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def load(path: Path, *, key: str, declaration: Adaptable, checkpoint: str, sha256: str) -> Adapter:
    """Read one saved version; raises ModelError when its bytes are not those that were saved."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"the saved version {key} can't be read: {error}") from None
    if hash_bytes(data) != sha256:
        raise ModelError(
            f"the saved version {key} is damaged (its checksum differs); restore another"
        )
    return Adapter(key, decode(data, declaration=declaration, checkpoint=checkpoint))


def _read_header(data: bytes) -> dict[str, str]:
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(len(data) - 8, 10_000_000):
            raise ValueError("its header length is out of range")
        header = json.loads(data[8 : 8 + length])
        metadata = header.get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError("it is not a Fluvial adapter")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"the adapter file is damaged: {error}") from None
    return metadata


def _check(tensors: Tensors, *, declaration: Adaptable) -> None:
    ranks = {t.shape[1] for name, t in tensors.items() if name.endswith(".a") and t.ndim == 2}
    if len(ranks) != 1:
        raise ModelError("the adapter file has no single rank")
    expected = list_shapes(declaration, rank=ranks.pop())
    for name, shape in expected.items():
        found = tensors.get(name)
        if found is None or found.shape != shape or found.dtype != np.float32:
            raise ModelError(
                f"the adapter file does not fit the model at {name!r}: expected {shape}"
            )
        if not np.isfinite(found).all():
            raise ModelError(f"the adapter file holds values that are not finite at {name!r}")
    extra = tensors.keys() - expected.keys()
    if extra:
        raise ModelError(f"the adapter file holds unknown tensors, such as {min(extra)!r}")
