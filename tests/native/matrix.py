"""Random packed matrices of every form, and what a product with them must give."""

from dataclasses import replace
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

from fluvial.model.gguf import RawTensor
from fluvial.model.packing import Packed, pack

FORMS = {
    "4 bits": ("Q4_0", 2),
    "4 bits, float32 scales": ("Q4_0", 4),
    "4 bits, minimum": ("Q4_1", 2),
    "4 bits, minimum, float32 scales": ("Q4_1", 4),
    "5 bits": ("Q5_0", 2),
    "5 bits, float32 scales": ("Q5_0", 4),
    "5 bits, minimum": ("Q5_1", 2),
    "5 bits, minimum, float32 scales": ("Q5_1", 4),
    "8 bits": ("Q8_0", 2),
    "8 bits, float32 scales": ("Q8_0", 4),
    "32 bits": ("F32", 4),
}
"""What a packed matrix may look like: the file's type it is made from, and bytes of a scale."""

ROUNDED = [name for name in FORMS if name != "32 bits"]


def make_matrix(form: str, outputs: int, inputs: int, *, seed: int = 0) -> Packed:
    """Make one whose integers take every value; what fills up its last blocks is random, too."""
    kind, scale_bytes = FORMS[form]
    packed = pack([make_tensor(kind, outputs, inputs, seed=seed)], whole=kind == "F32")
    return packed if packed.scale_bytes == scale_bytes else _widen_scales(packed)


def make_tensor(kind: str, outputs: int, inputs: int, *, seed: int = 0) -> RawTensor:
    """Make random blocks of one of the file's types, with scales around 1/100 of either sign."""
    random = np.random.default_rng(seed)
    width, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    if width == 1:
        values = random.standard_normal((outputs, inputs), np.float32)
        blocks = quantize(values, GGMLQuantizationType[kind]).view(np.uint8)
        return RawTensor("random", kind, (outputs, inputs), blocks)
    blocks = random.integers(0, 256, (outputs, -(-inputs // width), size), np.uint8)
    halves = 2 if kind in ("Q4_1", "Q5_1", "Q4_K", "Q5_K") else 1
    scales = random.uniform(0.005, 0.02, (*blocks.shape[:2], halves))
    scales *= random.choice([-1, 1], scales.shape)
    blocks[..., : 2 * halves] = scales.astype(np.float16).view(np.uint8)
    return RawTensor("random", kind, (outputs, inputs), blocks.reshape(outputs, -1))


def _widen_scales(packed: Packed) -> Packed:
    """Keep scales and minima in float32, with values that float16 does not have."""
    data_bytes = {4: 256, 5: 320, 8: 512}[packed.bits]
    tiles, blocks = -(-packed.outputs // 16), -(-packed.inputs // 32)
    block_bytes = data_bytes + 32 * (1 + packed.has_minimum)
    whole = packed.data.reshape(tiles, -1)[:, : blocks * block_bytes]
    whole = whole.reshape(tiles, blocks, block_bytes)
    scales = np.ascontiguousarray(whole[..., data_bytes:]).view(np.float16).astype(np.float32)
    wide = (scales * np.float32(1.1)).view(np.uint8)
    data = np.concatenate([whole[..., :data_bytes], wide], axis=-1).reshape(tiles, -1)
    data = np.pad(data, ((0, 0), (0, -data.shape[1] % 64)))
    return replace(packed, scale_bytes=4, data=np.ascontiguousarray(data).reshape(-1))


def describe_matrix(packed: Packed) -> dict[str, Any]:
    """Return the attributes that tell an operator what its bytes are."""
    return {
        "in_width": packed.inputs,
        "out_width": packed.outputs,
        "bits": packed.bits,
        "has_minimum": int(packed.has_minimum),
        "scale_bytes": packed.scale_bytes,
    }


def round_rows(x: NDArray[np.float32], *, bits: int = 8) -> NDArray[np.float64]:
    """Return what is left of rows that are rounded in blocks of 32, as the kernels do."""
    steps = np.float32(127 if bits == 8 else 127 * 128)
    blocks = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).reshape(len(x), -1, 32)
    most = np.abs(blocks).max(axis=-1, keepdims=True)
    inverse = np.divide(steps, most, out=np.zeros_like(most), where=most > 1e-30)
    scale = np.where(most > 1e-30, most / steps, 0).astype(np.float64)
    return (np.rint(blocks * inverse) * scale).reshape(len(x), -1)[:, : x.shape[1]]


def multiply(packed: Packed, x: NDArray[np.float32], *, input_bits: int = 8) -> NDArray[np.float64]:
    """Return x times the matrix in float64, x rounded as the matrix asks for."""
    rounded = x.astype(np.float64) if packed.bits == 32 else round_rows(x, bits=input_bits)
    return rounded @ packed.unpack().astype(np.float64).T
