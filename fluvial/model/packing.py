"""Map a checkpoint's blocks onto the packed integers that the decoder multiplies with.

A packed matrix is `scale * (q - zero)` in blocks of 32 inputs, q in 4 bits (zero 8) or 8 bits
(zero 128), plus, where the file's format has a minimum per block, an exact correction:
`minimum @ block sums of x`.

| file format        | packed as | loss |
|---|---|---|
| Q4_0, Q4_1, Q4_K   | 4 bits, with minimum where there is one | none |
| Q5_0, Q8_0         | 8 bits | none |
| Q5_1, Q5_K, Q6_K, F16, BF16, F32 | 8 bits, nearest | at most 1/254 of each block's largest value |

Layout of `MatMulNBits`: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from dataclasses import dataclass

import numpy as np
from gguf.quants import Q4_K
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.gguf import RawTensor

BLOCK = 32
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Packed:
    """One packed matrix.

    `data` uint8 [outputs, blocks, bytes a block]; `scale` float32 [outputs, blocks]; `minimum`
    float32 [blocks, outputs] or None.
    """

    bits: int
    data: Bytes
    scale: Floats
    minimum: Floats | None

    @property
    def outputs(self) -> int:
        return self.data.shape[0]

    @property
    def inputs(self) -> int:
        return self.data.shape[1] * BLOCK

    def unpack(self) -> Floats:
        """Return the float32 matrix [outputs, inputs] that the packed integers stand for."""
        if self.bits == 4:
            q = np.stack([self.data & 15, self.data >> 4], axis=-1).reshape(self.outputs, -1, BLOCK)
            values = (q.astype(np.float32) - 8) * self.scale[..., None]
        else:
            values = (self.data.astype(np.float32) - 128) * self.scale[..., None]
        if self.minimum is not None:
            values = values + self.minimum.T[..., None]
        return values.reshape(self.outputs, self.inputs)


def pack(tensors: list[RawTensor]) -> Packed:
    """Pack matrices that share their input into one, rows one after another.

    All become 4 bits when every one can without loss, else 8 bits. Raises ModelError when the
    inputs are not a multiple of 32.
    """
    inputs = tensors[0].shape[-1]
    if inputs % BLOCK:
        raise ModelError(
            f"tensor {tensors[0].name!r} has {inputs} inputs; a multiple of {BLOCK} is needed"
        )
    if all(tensor.type in _NIBBLES for tensor in tensors):
        return _join([_pack_4(tensor) for tensor in tensors])
    return _join([_pack_8(tensor) for tensor in tensors])


def _join(parts: list[Packed]) -> Packed:
    minimum = None
    if any(part.minimum is not None for part in parts):
        minimum = np.concatenate(
            [np.zeros_like(p.scale.T) if p.minimum is None else p.minimum for p in parts], axis=1
        )
    return Packed(
        bits=parts[0].bits,
        data=np.concatenate([part.data for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        minimum=minimum,
    )


def _pack_4(tensor: RawTensor) -> Packed:
    q, scale, minimum = _NIBBLES[tensor.type](tensor.blocks)
    data = q[..., 0::2] | (q[..., 1::2] << np.uint8(4))
    return Packed(bits=4, data=data, scale=scale, minimum=minimum)


def _pack_8(tensor: RawTensor) -> Packed:
    if tensor.type in _BYTES:
        q, scale = _BYTES[tensor.type](tensor.blocks)
    else:
        q, scale = _round_8(tensor.dequantize())
    return Packed(bits=8, data=q, scale=scale, minimum=None)


def _round_8(values: Floats) -> tuple[Bytes, Floats]:
    blocks = values.reshape(len(values), -1, BLOCK)
    scale = np.abs(blocks).max(axis=-1) / 127
    safe = np.where(scale == 0, 1, scale)
    q = np.rint(blocks / safe[..., None]) + 128
    return q.astype(np.uint8), scale.astype(np.float32)


def _split(blocks: Bytes, block_bytes: int) -> Bytes:
    return blocks.reshape(len(blocks), -1, block_bytes)


def _half(data: Bytes) -> Floats:
    return np.ascontiguousarray(data).view(np.float16)[..., 0].astype(np.float32)


def _low_high(qs: Bytes) -> Bytes:
    return np.concatenate([qs & np.uint8(15), qs >> np.uint8(4)], axis=-1)


def _q4_0(blocks: Bytes) -> tuple[Bytes, Floats, None]:
    parts = _split(blocks, 18)
    return _low_high(parts[..., 2:]), _half(parts[..., :2]), None


def _q4_1(blocks: Bytes) -> tuple[Bytes, Floats, Floats]:
    parts = _split(blocks, 20)
    scale, least = _half(parts[..., :2]), _half(parts[..., 2:4])
    return _low_high(parts[..., 4:]), scale, _to_minimum(scale, least)


def _q4_k(blocks: Bytes) -> tuple[Bytes, Floats, Floats]:
    parts = _split(blocks, 144)
    rows, supers = parts.shape[:2]
    steps, drops = Q4_K.get_scale_min(parts[..., 4:16].reshape(-1, 12))
    steps, drops = steps.reshape(rows, supers, 8), drops.reshape(rows, supers, 8)
    scale = (_half(parts[..., :2])[..., None] * steps).reshape(rows, -1).astype(np.float32)
    least = (-_half(parts[..., 2:4])[..., None] * drops).reshape(rows, -1).astype(np.float32)
    nibbles = _low_high(parts[..., 16:].reshape(rows, supers, 4, 32))
    return nibbles.reshape(rows, -1, BLOCK), scale, _to_minimum(scale, least)


def _to_minimum(scale: Floats, least: Floats) -> Floats:
    """`scale*q + least` equals `scale*(q-8) + minimum`."""
    return np.ascontiguousarray((least + 8 * scale).T)


def _q5_0(blocks: Bytes) -> tuple[Bytes, Floats]:
    parts = _split(blocks, 22)
    high = np.unpackbits(np.ascontiguousarray(parts[..., 2:6]), axis=-1, bitorder="little")
    q = _low_high(parts[..., 6:]) | (high << 4)
    return (q + (128 - 16)).astype(np.uint8), _half(parts[..., :2])


def _q8_0(blocks: Bytes) -> tuple[Bytes, Floats]:
    parts = _split(blocks, 34)
    return parts[..., 2:] ^ np.uint8(0x80), _half(parts[..., :2])


_NIBBLES = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
_BYTES = {"Q5_0": _q5_0, "Q8_0": _q8_0}
