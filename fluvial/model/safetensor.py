"""Read safetensors checkpoints, memory-mapped, as raw tensors like those of a GGUF file.

The header is bounded and checked before a tensor is mapped; shards are the files of one folder.
Source: https://github.com/huggingface/safetensors (format section of its README).
"""

import json
import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from fluvial.errors import ModelError
from fluvial.model.gguf import RawTensor

MAX_HEADER_BYTES = 100_000_000
_WIDTH_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def read(folder: Path) -> dict[str, RawTensor]:
    """Map every tensor of the `*.safetensors` files in `folder`. Raises ModelError if unsound."""
    tensors: dict[str, RawTensor] = {}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} holds no .safetensors file")
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in tensors:
                raise ModelError(f"{file.name}: tensor {name!r} stands in another shard too")
            tensors[name] = tensor
    return tensors


def _read_file(file: Path) -> dict[str, RawTensor]:
    size = file.stat().st_size
    if size < 10:
        raise ModelError(f"{file.name} is {size} bytes long: too short for safetensors")
    with file.open("rb") as handle:
        data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise ModelError(
            f"{file.name} is not safetensors or is truncated: its header claims {length:,} bytes"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.name}: its header is not JSON ({error})") from None
    body = np.frombuffer(data, np.uint8)[8 + length :]
    header.pop("__metadata__", None)
    return {name: _map(name, entry, body, file.name) for name, entry in header.items()}


def _map(name: str, entry: Any, body: np.ndarray[Any, np.dtype[np.uint8]], file: str) -> RawTensor:
    try:
        kind, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{file}: the entry of tensor {name!r} is malformed") from None
    if kind not in _WIDTH_BYTES:
        raise ModelError(
            f"{file}: tensor {name!r} is {kind}; supported are {', '.join(_WIDTH_BYTES)}"
        )
    if not 1 <= len(shape) <= 4 or any(n < 1 for n in shape):
        raise ModelError(f"{file}: tensor {name!r} has shape {shape}")
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * _WIDTH_BYTES[kind]:
        raise ModelError(
            f"{file}: tensor {name!r} lies outside the file; it is truncated or damaged"
        )
    return RawTensor(name, kind, shape, body[begin:end].reshape(math.prod(shape[:-1]), -1))
