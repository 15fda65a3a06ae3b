"""Adapters in files: safetensors, bound to the exact weights they grew on, checked when read."""

import hashlib
import json
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from fluvial.errors import ModelError
from fluvial.model.adapter import Adaptable, Tensors, list_shapes
from fluvial.model.basis import Bases, Basis
from fluvial.model.compact import compact, expand

BASED_FORMAT, FORMAT, FIRST_FORMAT = (f"fluvial-adapter-{number}" for number in (3, 2, 1))
"""The third stands on a basis; the first kept every tensor, in float32. All are read."""


def encode(
    tensors: Tensors,
    *,
    checkpoint: str,
    declaration: Adaptable | None = None,
    seed: int = 0,
    basis: Basis | None = None,
) -> bytes:
    """Serialise as safetensors; the header names the checkpoint (sha256) the tensors belong to.

    With the model's declaration, which they must fit, what can be made again is left out
    (`compact`); first factors may have been drawn from `seed`, or be those of `basis`. Equal
    tensors give equal bytes.
    """
    kept: dict[str, NDArray[Any]] = dict(tensors)
    metadata = {"format": FIRST_FORMAT, "checkpoint": checkpoint}
    if declaration is not None:
        shared = None if basis is None else basis.tensors
        kept = compact(tensors, declaration=declaration, seed=seed, basis=shared)
        metadata |= {"format": FORMAT, "seed": str(seed)}
        if basis is not None:
            metadata |= {"format": BASED_FORMAT, "basis": basis.sha256}
    data = safetensors.numpy.save(kept, metadata=metadata)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    # The library writes the metadata in an order that changes from call to call.
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(data)[8 + length :]])


def decode(
    data: bytes, *, declaration: Adaptable, checkpoint: str, bases: Bases | None = None
) -> dict[str, NDArray[np.float32]]:
    """Read what `encode` wrote and hold it against the model.

    Raises ModelError when the bytes are damaged, belong to another checkpoint, or do not fit, or
    when `bases` lacks the one it stands on.
    """
    header = _read_header(data)
    if header.get("checkpoint") != checkpoint:
        raise ModelError(
            f"this adapter was learned on checkpoint {str(header.get('checkpoint'))[:12]}…, "
            f"not on {checkpoint[:12]}…; adapters only fit the exact weights they grew on"
        )
    try:
        tensors = safetensors.numpy.load(data)
        seed = int(header.get("seed", "0"))
        if not 0 <= seed < 2**63:
            raise ValueError("its seed is out of range")
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"the adapter file is damaged: {error}") from None
    if header["format"] != FIRST_FORMAT:
        basis = _find_basis(header, bases)
        tensors = expand(tensors, declaration=declaration, seed=seed, basis=basis)
    _check(tensors, declaration=declaration)
    return tensors


def _find_basis(header: dict[str, str], bases: Bases | None) -> Tensors | None:
    if header["format"] != BASED_FORMAT:
        return None
    if bases is None:
        raise ModelError("the adapter stands on a basis, and there are none here")
    return bases.load(str(header.get("basis"))).tensors


def hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read_header(data: bytes) -> dict[str, str]:
    try:
        length = int.from_bytes(data[:8], "little")
        if not 2 <= length <= min(len(data) - 8, 10_000_000):
            raise ValueError("its header length is out of range")
        header = json.loads(data[8 : 8 + length])
        metadata = header.get("__metadata__", {})
        if metadata.get("format") not in (BASED_FORMAT, FORMAT, FIRST_FORMAT):
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
