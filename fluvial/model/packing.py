"""Map a checkpoint's blocks onto the packed integers that the engine multiplies with.

A packed weight is `scale * (q - zero)`, or `scale * q + minimum` where the file's format has a
minimum, in blocks of 32 inputs; q has 4, 5 or 8 bits (zero 8, 16, 128).

| file format              | packed as | loss |
|---|---|---|
| Q4_0, Q4_1               | 4 bits, float16 scale (and minimum) | none |
| Q5_0, Q5_1               | 5 bits, float16 scale (and minimum) | none |
| Q8_0                     | 8 bits, float16 scale | none |
| Q4_K, Q5_K               | 4 or 5 bits, float32 scale and minimum | none |
| Q6_K, F16, BF16, F32, …  | 8 bits, nearest | at most 1/254 of each block's largest value |
| any, on request          | float32 | none |

The bytes are laid out in tiles of 16 outputs, block after block, as `native/source/linear.h` says.
Formats: https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from gguf.quants import Q4_K
from numpy.typing import NDArray

from fluvial.model.gguf import RawTensor

BLOCK, TILE = 32, 16
Bits = Literal[4, 5, 8, 32]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_ZERO = {4: 8, 5: 16, 8: 128}


@dataclass(frozen=True, eq=False, kw_only=True)
class Packed:
    """One packed matrix. `data` uint8 [bytes], in tiles; `scale_bytes` 2 or 4."""

    outputs: int
    inputs: int
    bits: Bits
    has_minimum: bool
    scale_bytes: int
    data: Bytes

    def unpack(self) -> Floats:
        """Return the float32 matrix [outputs, inputs] that the bytes stand for."""
        tiles = self.data.reshape(-(-self.outputs // TILE), -1)
        if self.bits == 32:
            values = tiles.view(np.float32).reshape(len(tiles), -1, TILE).swapaxes(1, 2)
        else:
            values = _dequantise(self, tiles)
        return values.reshape(len(tiles) * TILE, -1)[: self.outputs, : self.inputs]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Blocks:
    """Integers q [outputs, blocks, 32], scale and minimum float32 [outputs, blocks]."""

    bits: int
    q: Bytes
    scale: Floats
    minimum: Floats | None
    scale_bytes: int


def pack(tensors: list[RawTensor], *, whole: bool = False) -> Packed:
    """Pack matrices that share their input into one, rows one after another.

    All take the narrowest form that holds each as exactly as it could be held alone. `whole`
    keeps float32.
    """
    inputs = tensors[0].shape[-1]
    if whole:
        return pack_floats(np.concatenate([each.dequantize() for each in tensors]))
    parts = [_split_blocks(tensor) for tensor in tensors]
    bits = max(part.bits for part in parts)
    least = any(part.minimum is not None for part in parts)
    if bits == 8 and least:
        parts = [_round_8(each.dequantize()) for each in tensors]
        least = False
    return _lay_out(_join([_widen(part, bits=bits, least=least) for part in parts]), inputs)


def pack_nearest(values: Floats) -> Packed:
    """Pack a matrix [outputs, inputs] of any numbers to 8 bits, nearest."""
    return _lay_out(_round_8(values), values.shape[1])


def pack_stack(tensors: list[RawTensor], *, whole: bool = False) -> list[Packed]:
    """Pack stacks of matrices [count, outputs, inputs]: one result for each place in the stack.

    All are packed alike; the rows of `tensors` follow each other in each. A plain matrix is a
    stack of one.
    """
    count = tensors[0].shape[0] if len(tensors[0].shape) == 3 else 1
    return [pack([_take(each, n, count) for each in tensors], whole=whole) for n in range(count)]


def _take(stack: RawTensor, index: int, count: int) -> RawTensor:
    """Return matrix `index` of a stack, whose rows are kept one after another."""
    rows = len(stack.blocks) // count
    shape = (rows, stack.shape[-1])
    part = stack.blocks[index * rows : (index + 1) * rows]
    return RawTensor(stack.name, stack.type, shape, part)


def _split_blocks(tensor: RawTensor) -> _Blocks:
    split = _EXACT.get(tensor.type)
    return _round_8(tensor.dequantize()) if split is None else split(tensor.blocks)


def _widen(part: _Blocks, *, bits: int, least: bool) -> _Blocks:
    """Give the same values more bits, or a minimum in place of a zero."""
    if least:
        minimum = part.minimum
        if minimum is None:
            minimum = part.scale * np.float32(-_ZERO[part.bits])
        return replace(part, bits=bits, minimum=minimum)
    shift = np.uint8(_ZERO[bits] - _ZERO[part.bits])
    return replace(part, bits=bits, q=part.q + shift)


def _join(parts: list[_Blocks]) -> _Blocks:
    minima = [part.minimum for part in parts if part.minimum is not None]
    return _Blocks(
        bits=parts[0].bits,
        q=np.concatenate([part.q for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        minimum=np.concatenate(minima) if minima else None,
        scale_bytes=max(part.scale_bytes for part in parts),
    )


def _lay_out(blocks: _Blocks, inputs: int) -> Packed:
    outputs, count, _ = blocks.q.shape
    tiles = -(-outputs // TILE)
    groups = _to_tiles(blocks.q).reshape(tiles, TILE, count, 8, 4).transpose(0, 2, 3, 1, 4)
    records = [_pack_bits(groups.reshape(tiles, count, 8, 64), blocks.bits)]
    kind = np.float16 if blocks.scale_bytes == 2 else np.float32
    for each in (blocks.scale, blocks.minimum):
        if each is not None:
            rows = _to_tiles(each).reshape(tiles, TILE, count).swapaxes(1, 2)
            records.append(np.ascontiguousarray(rows.astype(kind)).view(np.uint8))
    whole = np.concatenate(records, axis=-1).reshape(tiles, -1)
    padding = np.zeros((tiles, -whole.shape[1] % 64), np.uint8)
    return Packed(
        outputs=outputs,
        inputs=inputs,
        bits=blocks.bits,  # pyright: ignore[reportArgumentType]
        has_minimum=blocks.minimum is not None,
        scale_bytes=blocks.scale_bytes,
        data=np.concatenate([whole, padding], axis=1).reshape(-1),
    )


def pack_floats(values: Floats) -> Packed:
    """Lay out a matrix [outputs, inputs] in float32."""
    outputs, inputs = values.shape
    padded = np.pad(_to_tiles(values), ((0, 0), (0, -inputs % BLOCK)))
    tiles = np.ascontiguousarray(padded.reshape(-1, TILE, padded.shape[1]).swapaxes(1, 2))
    return Packed(
        outputs=outputs,
        inputs=inputs,
        bits=32,
        has_minimum=False,
        scale_bytes=4,
        data=tiles.astype(np.float32).reshape(-1).view(np.uint8),
    )


def _to_tiles(rows: NDArray[Any]) -> NDArray[Any]:
    """Fill up with zero rows to a whole number of tiles."""
    missing = -len(rows) % TILE
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))


def _pack_bits(groups: Bytes, bits: int) -> Bytes:
    """Pack q [tiles, blocks, 8, 64] to bytes [tiles, blocks, bytes a block]."""
    if bits == 8:
        return groups.reshape(*groups.shape[:2], 512)
    low = groups & np.uint8(15)
    nibbles = (low[:, :, 0::2] | (low[:, :, 1::2] << np.uint8(4))).reshape(*groups.shape[:2], 256)
    if bits == 4:
        return nibbles
    high = np.packbits(groups >> np.uint8(4), axis=-1, bitorder="little")
    return np.concatenate([nibbles, high.reshape(*groups.shape[:2], 64)], axis=-1)


def _dequantise(packed: Packed, tiles: Bytes) -> Floats:
    """Return [tiles, 16, inputs] float32."""
    count = -(-packed.inputs // BLOCK)
    data_bytes = {4: 256, 5: 320, 8: 512}[packed.bits]
    sides = 1 + packed.has_minimum
    record_bytes = data_bytes + sides * TILE * packed.scale_bytes
    records = tiles[:, : count * record_bytes].reshape(len(tiles), count, record_bytes)
    groups = _unpack_bits(records[..., :data_bytes], packed.bits)
    groups = groups.reshape(len(tiles), count, 8, TILE, 4)
    q = groups.transpose(0, 3, 1, 2, 4).reshape(len(tiles), TILE, count, BLOCK).astype(np.float32)
    kind = np.float16 if packed.scale_bytes == 2 else np.float32
    rest = np.ascontiguousarray(records[..., data_bytes:]).view(kind).astype(np.float32)
    rest = rest.reshape(len(tiles), count, sides, TILE).transpose(2, 0, 3, 1)[..., None]
    values = rest[0] * q + rest[1] if packed.has_minimum else rest[0] * (q - _ZERO[packed.bits])
    return values.reshape(len(tiles), TILE, -1)


def _unpack_bits(data: Bytes, bits: int) -> Bytes:
    """Return q [tiles, blocks, 8, 64] of bytes [tiles, blocks, bytes a block]."""
    if bits == 8:
        return data
    nibbles = data[..., :256].reshape(*data.shape[:2], 4, 64)
    groups = np.stack([nibbles & np.uint8(15), nibbles >> np.uint8(4)], axis=3)
    groups = groups.reshape(*data.shape[:2], 8, 64)
    if bits == 5:
        high = np.unpackbits(data[..., 256:], axis=-1, bitorder="little")
        groups = groups | (high.reshape(groups.shape) << np.uint8(4))
    return groups


# --- the file's formats ---------------------------------------------------------------------------


def _round_8(values: Floats) -> _Blocks:
    values = np.pad(values, ((0, 0), (0, -values.shape[1] % BLOCK)))
    blocks = values.reshape(len(values), -1, BLOCK)
    scale = (np.abs(blocks).max(axis=-1) / 127).astype(np.float16).astype(np.float32)
    safe = np.where(scale == 0, 1, scale)
    q = np.clip(np.rint(blocks / safe[..., None]), -127, 127) + 128
    return _Blocks(bits=8, q=q.astype(np.uint8), scale=scale, minimum=None, scale_bytes=2)


def _split(blocks: Bytes, block_bytes: int) -> Bytes:
    return blocks.reshape(len(blocks), -1, block_bytes)


def _half(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float16)[..., 0].astype(np.float32)


def _low_high(qs: Bytes) -> Bytes:
    return np.concatenate([qs & np.uint8(15), qs >> np.uint8(4)], axis=-1)


def _with_fifth(qs: Bytes, fifth: Bytes) -> Bytes:
    high = np.unpackbits(np.ascontiguousarray(fifth), axis=-1, bitorder="little")
    return _low_high(qs) | (high << np.uint8(4))


def _q4_0(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 18)
    q, scale = _low_high(parts[..., 2:]), _half(parts[..., :2])
    return _Blocks(bits=4, q=q, scale=scale, minimum=None, scale_bytes=2)


def _q4_1(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 20)
    scale, least = _half(parts[..., :2]), _half(parts[..., 2:4])
    q = _low_high(parts[..., 4:])
    return _Blocks(bits=4, q=q, scale=scale, minimum=least, scale_bytes=2)


def _q5_0(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 22)
    q = _with_fifth(parts[..., 6:], parts[..., 2:6])
    return _Blocks(bits=5, q=q, scale=_half(parts[..., :2]), minimum=None, scale_bytes=2)


def _q5_1(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 24)
    scale, least = _half(parts[..., :2]), _half(parts[..., 2:4])
    q = _with_fifth(parts[..., 8:], parts[..., 4:8])
    return _Blocks(bits=5, q=q, scale=scale, minimum=least, scale_bytes=2)


def _q8_0(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 34)
    q, scale = parts[..., 2:] ^ np.uint8(0x80), _half(parts[..., :2])
    return _Blocks(bits=8, q=q, scale=scale, minimum=None, scale_bytes=2)


def _q4_k(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 144)
    q = _low_high(parts[..., 16:].reshape(*parts.shape[:2], 4, 32))
    # Each group of 64 has its low nibbles first, then its high ones: two blocks of 32.
    return _finish_k(parts, q, bits=4)


def _q5_k(blocks: Bytes) -> _Blocks:
    parts = _split(blocks, 176)
    low = _low_high(parts[..., 48:].reshape(*parts.shape[:2], 4, 32))
    low = low.reshape(*parts.shape[:2], 8, BLOCK)
    # Bit n of byte i is the fifth bit of input i of block n.
    bits = np.unpackbits(parts[..., 16:48, None], axis=-1, bitorder="little")
    return _finish_k(parts, low | (bits.swapaxes(-1, -2) << np.uint8(4)), bits=5)


def _finish_k(parts: Bytes, q: Bytes, *, bits: int) -> _Blocks:
    rows, supers = parts.shape[:2]
    steps, drops = Q4_K.get_scale_min(parts[..., 4:16].reshape(-1, 12))
    steps, drops = steps.reshape(rows, supers, 8), drops.reshape(rows, supers, 8)
    scale = (_half(parts[..., :2])[..., None] * steps).reshape(rows, -1).astype(np.float32)
    least = (-_half(parts[..., 2:4])[..., None] * drops).reshape(rows, -1).astype(np.float32)
    q = q.reshape(rows, -1, BLOCK)
    return _Blocks(bits=bits, q=q, scale=scale, minimum=least, scale_bytes=4)


_EXACT: dict[str, Callable[[Bytes], _Blocks]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
"""The block types that map onto packed integers without loss."""
