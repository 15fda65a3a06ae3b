"""Read safetensors checkpoints, memory-mapped, as raw tensors like those of a GGUF file.

The header is bounded and checked before a tensor is mapped; shards are the files of one folder.
Source: https://github.com/huggingface/safetensors (format section of its README).
"""

import json
import math
import mmap
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.gguf import RawTensor

MAX_HEADER_BYTES = 32 * 2**20
MAX_RANK = 4
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
    try:
        size = file.stat().st_size
        if size < 10:
            raise ModelError(f"{file.name} is {size} bytes long: too short for safetensors")
        with file.open("rb") as handle:
            data = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"{file} can't be opened: {error.strerror}") from None
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise ModelError(
            f"{file.name} is not safetensors or is truncated: its header claims {length:,} bytes"
        )
    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=_refuse_doubles)
        if not isinstance(header, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file.name}: its header is not JSON ({error!s:.200})") from None
    body = np.frombuffer(data, np.uint8)[8 + length :]
    entries = cast("dict[str, object]", header)
    entries.pop("__metadata__", None)
    return {name: _map(name, entry, body, file.name) for name, entry in entries.items()}


def _refuse_doubles(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object holds a name twice")
    return found


def _map(name: str, entry: object, body: NDArray[np.uint8], file: str) -> RawTensor:
    table = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    kind, shape = table.get("dtype"), _read_numbers(table.get("shape"))
    place = _read_numbers(table.get("data_offsets"))
    if not isinstance(kind, str) or shape is None or place is None or len(place) != 2:
        raise ModelError(f"{file}: the entry of tensor {name[:80]!r} is malformed")
    if kind not in _WIDTH_BYTES:
        raise ModelError(
            f"{file}: tensor {name[:80]!r} is {kind[:40]!r}; supported are "
            f"{', '.join(_WIDTH_BYTES)}"
        )
    if not 1 <= len(shape) <= MAX_RANK or any(n < 1 for n in shape):
        raise ModelError(f"{file}: tensor {name[:80]!r} has shape {shape!r:.100}")
    begin, end = place
    if not 0 <= begin <= end <= len(body) or end - begin != math.prod(shape) * _WIDTH_BYTES[kind]:
        raise ModelError(
            f"{file}: tensor {name[:80]!r} lies outside the file; it is truncated or damaged"
        )
    return RawTensor(name, kind, shape, body[begin:end].reshape(math.prod(shape[:-1]), -1))


def _read_numbers(value: object) -> tuple[int, ...] | None:
    # Whole numbers only: int() would also take true, "3", 2.7, and fail on infinity.
    values = cast("list[object]", value) if isinstance(value, list) else [None]
    numbers = tuple(n for n in values if type(n) is int)
    return numbers if len(numbers) == len(values) else None
