"""Packed integers stand for the file's own values: exactly where the format allows, or closely."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from fluvial.errors import ModelError
from fluvial.model.gguf import RawTensor
from fluvial.model.packing import pack


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0"])
def test_formats_that_map_exactly_lose_nothing(kind: str) -> None:
    tensor = _quantize(kind)
    np.testing.assert_array_equal(pack([tensor]).unpack(), tensor.dequantize())


def test_q4_k_maps_exactly() -> None:
    tensor = _random_blocks("Q4_K")
    packed = pack([tensor])
    assert packed.bits == 4
    np.testing.assert_allclose(packed.unpack(), tensor.dequantize(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["Q5_1", "F16", "F32", "BF16"])
def test_other_formats_keep_within_a_254th_of_each_block(kind: str) -> None:
    tensor = _quantize(kind)
    exact = tensor.dequantize().reshape(-1, 32)
    error = np.abs(pack([tensor]).unpack().reshape(-1, 32) - exact)
    assert (error <= np.abs(exact).max(axis=1, keepdims=True) / 253).all()


def test_rows_of_several_matrices_follow_one_another() -> None:
    parts = [_quantize("Q4_1", seed=1), _quantize("Q4_0", seed=2)]
    expected = np.concatenate([part.dequantize() for part in parts])
    np.testing.assert_array_equal(pack(parts).unpack(), expected)


def test_one_finer_matrix_makes_the_whole_group_eight_bits() -> None:
    packed = pack([_quantize("Q4_0"), _quantize("Q8_0")])
    assert packed.bits == 8


def test_inputs_that_do_not_fill_blocks_are_refused() -> None:
    values = np.zeros((4, 40), np.float32)
    with pytest.raises(ModelError, match="40 inputs; a multiple of 32"):
        pack([RawTensor("x", "F32", values.shape, values.view(np.uint8))])


def _quantize(kind: str, *, seed: int = 0) -> RawTensor:
    values = np.random.default_rng(seed).standard_normal((16, 96)).astype(np.float32)
    blocks = quantize(values, GGMLQuantizationType[kind])
    return RawTensor("x", kind, values.shape, np.ascontiguousarray(blocks).view(np.uint8))


def _random_blocks(kind: str) -> RawTensor:
    block, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = np.random.default_rng(3).integers(0, 90, (8, width)).astype(np.uint8)
    return RawTensor("x", kind, (8, block), blocks)
