"""Read GGUF files, memory-mapped: metadata checked against the file's size, tensors as raw blocks.

Nothing in the file is trusted: every count, length and offset is bounded by the bytes that are
there before anything is allocated. Blocks become float32 through the `gguf` package's reference
dequantisers.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from fluvial.errors import ModelError

MAGIC = b"GGUF"
SUPPORTED = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
MAX_STRING_BYTES = 16 * 2**20
MAX_RANK = 4

Value = object
_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_NUMPY = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclass(frozen=True, eq=False)
class RawTensor:
    """One tensor at rest. `shape`: [outputs, inputs] or [n]; `blocks`: uint8 [rows, row bytes]."""

    name: str
    type: str
    shape: tuple[int, ...]
    blocks: NDArray[np.uint8]

    def dequantize(
        self, rows: Sequence[int] | NDArray[np.int64] | slice | None = None
    ) -> NDArray[np.float32]:
        """Return float32 values, of all rows or only those named.

        Raises ModelError when one of them is not a finite number: then the file is damaged.
        """
        blocks = self.blocks if rows is None else self.blocks[rows]
        shape = self.shape if rows is None else (len(blocks), self.shape[-1])
        if not len(blocks):
            return np.zeros(shape, np.float32)
        with np.errstate(all="ignore"):  # what overflows is seen below
            values = dequantize(np.ascontiguousarray(blocks), GGMLQuantizationType[self.type])
            # No array of flags: an embedding alone may be a gigabyte.
            extremes = values.min(), values.max()
        if not all(map(math.isfinite, extremes)):
            raise ModelError(
                f"tensor {self.name[:80]!r} holds numbers that are not finite: the file is damaged"
            )
        return np.ascontiguousarray(values.reshape(shape), dtype=np.float32)


@dataclass(frozen=True, eq=False)
class GgufFile:
    """A parsed file; tensors are views into the map, which lives as long as they do."""

    metadata: Mapping[str, Value]
    tensors: Mapping[str, RawTensor]


def read(path: Path) -> GgufFile:
    """Parse `path`. Raises ModelError, saying what is wrong where, unless it is sound GGUF."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise ModelError(f"{path.name} is {size} bytes long: too short to be a GGUF file")
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelError(f"{path} can't be opened: {error.strerror}") from None
    return _Parser(data, name=path.name).parse()


class _Parser:
    def __init__(self, data: mmap.mmap, *, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    def parse(self) -> GgufFile:
        magic = self._data[:4]
        if magic != MAGIC:
            raise self._error(f"it starts with {magic!r}, a GGUF file starts with {MAGIC!r}")
        self._at = 4
        version = self._scalar("I")
        if version not in (2, 3):
            raise self._error(f"GGUF version {version} is not supported (2 and 3 are)")
        num_tensors, num_values = self._scalar("Q"), self._scalar("Q")
        self._bound(num_tensors, unit_bytes=24, what="tensors")
        self._bound(num_values, unit_bytes=13, what="metadata values")
        metadata = self._read_metadata(num_values)
        entries = [self._tensor_entry() for _ in range(num_tensors)]
        return GgufFile(metadata, self._map(entries, self._read_alignment(metadata)))

    def _read_metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key, value = self._entry()
            if key in metadata:
                raise self._error(f"it holds metadata {key[:80]!r} twice")
            metadata[key] = value
        return metadata

    def _read_alignment(self, metadata: Mapping[str, Value]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment not in (8, 16, 32, 64, 128, 256, 4096):
            raise self._error(f"general.alignment is {alignment!r}")
        return alignment

    def _map(
        self, entries: list[tuple[str, tuple[int, ...], int, int]], alignment: int
    ) -> dict[str, RawTensor]:
        start = -(-self._at // alignment) * alignment
        whole = np.frombuffer(self._data, np.uint8)
        tensors: dict[str, RawTensor] = {}
        for name, shape, type_id, offset in entries:
            tensors[name] = self._tensor(whole, name, shape, type_id, start + offset)
        if len(tensors) != len(entries):
            raise self._error("two tensors have the same name")
        return tensors

    def _tensor(
        self, whole: NDArray[np.uint8], name: str, shape: tuple[int, ...], type_id: int, offset: int
    ) -> RawTensor:
        try:
            kind = GGMLQuantizationType(type_id)
        except ValueError:
            raise self._error(f"tensor {name!r} has unknown type {type_id}") from None
        if kind.name not in SUPPORTED:
            raise self._error(
                f"tensor {name!r} is {kind.name}; supported are {', '.join(SUPPORTED)}"
            )
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if shape[-1] % block:
            raise self._error(
                f"tensor {name!r}: {shape[-1]} values a row don't fill {kind.name} blocks"
            )
        rows, row_bytes = math.prod(shape[:-1]), shape[-1] // block * block_bytes
        end = offset + rows * row_bytes
        if end > len(whole):
            raise self._error(
                f"it ends before tensor {name!r} does: {end:,} bytes are needed, "
                f"{len(whole):,} are there. The file is truncated; pull the model again"
            )
        return RawTensor(name, kind.name, shape, whole[offset:end].reshape(rows, row_bytes))

    def _entry(self) -> tuple[str, Value]:
        key = self._string()
        return key, self._value(self._scalar("I"), key)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name, rank = self._string(), self._scalar("I")
        if not 1 <= rank <= MAX_RANK:
            raise self._error(f"tensor {name!r} has {rank} dimensions")
        dims = [self._scalar("Q") for _ in range(rank)]
        if any(not 1 <= dim <= 2**32 for dim in dims):
            raise self._error(f"tensor {name!r} has dimensions {dims}")
        return name, tuple(reversed(dims)), self._scalar("I"), self._scalar("Q")

    def _value(self, kind: int, key: str) -> Value:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(key)
        raise self._error(f"metadata {key!r} has unknown type {kind}")

    def _array(self, key: str) -> Value:
        kind, count = self._scalar("I"), self._scalar("Q")
        if kind == _STRING:
            self._bound(count, unit_bytes=8, what=f"strings in {key!r}")
            return [self._string() for _ in range(count)]
        if kind not in _NUMPY:
            raise self._error(f"metadata {key!r} is an array of unknown type {kind}")
        dtype = np.dtype(_NUMPY[kind])
        self._bound(count, unit_bytes=dtype.itemsize, what=f"values in {key!r}")
        values = np.frombuffer(self._data, dtype, count, self._at)
        self._at += count * dtype.itemsize
        return values

    def _scalar(self, code: str) -> int:
        try:
            (value,) = struct.unpack_from("<" + code, self._data, self._at)
        except struct.error:
            raise self._error("it ends inside its header; the file is truncated") from None
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        length = self._scalar("Q")
        if length > min(MAX_STRING_BYTES, len(self._data) - self._at):
            raise self._error(f"a string at byte {self._at} claims {length:,} bytes")
        data = self._data[self._at : self._at + length]
        self._at += length
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self._error(f"the string before byte {self._at} is not UTF-8") from None

    def _bound(self, count: int, *, unit_bytes: int, what: str) -> None:
        if count * unit_bytes > len(self._data) - self._at:
            raise self._error(f"it claims {count:,} {what}, more than its bytes can hold")

    def _error(self, reason: str) -> ModelError:
        return ModelError(f"{self._name} is not a sound GGUF file: {reason}")
