"""Packed integers stand for the file's own values: exactly where the format allows, or closely."""

import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from fluvial.model.gguf import RawTensor
from fluvial.model.packing import pack, pack_stack


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_formats_that_map_exactly_lose_nothing(kind: str) -> None:
    tensor = _quantize(kind)
    np.testing.assert_array_equal(pack([tensor]).unpack(), tensor.dequantize())


@pytest.mark.parametrize(("kind", "bits"), [("Q4_K", 4), ("Q5_K", 5)])
def test_k_blocks_map_exactly(kind: str, bits: int) -> None:
    tensor = _random_blocks(kind)
    packed = pack([tensor])
    assert packed.bits == bits
    np.testing.assert_allclose(packed.unpack(), tensor.dequantize(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", ["F16", "F32", "BF16"])
def test_other_formats_keep_within_a_254th_of_each_block(kind: str) -> None:
    tensor = _quantize(kind)
    exact = tensor.dequantize().reshape(-1, 32)
    error = np.abs(pack([tensor]).unpack().reshape(-1, 32) - exact)
    assert (error <= np.abs(exact).max(axis=1, keepdims=True) / 250).all()


def test_float32_is_kept_on_request() -> None:
    tensor = _quantize("F32")
    np.testing.assert_array_equal(pack([tensor], whole=True).unpack(), tensor.dequantize())


def test_rows_of_several_matrices_follow_one_another() -> None:
    parts = [_quantize("Q4_1", seed=1), _quantize("Q4_0", seed=2)]
    expected = np.concatenate([part.dequantize() for part in parts])
    np.testing.assert_array_equal(pack(parts).unpack(), expected)


def test_one_finer_matrix_makes_the_whole_group_eight_bits() -> None:
    packed = pack([_quantize("Q4_0"), _quantize("Q8_0")])
    assert packed.bits == 8


def test_more_bits_or_a_minimum_change_no_value() -> None:
    parts = [_quantize("Q4_0", seed=1), _quantize("Q5_0", seed=2), _quantize("Q8_0", seed=3)]
    expected = np.concatenate([part.dequantize() for part in parts])
    np.testing.assert_array_equal(pack(parts).unpack(), expected)
    mixed = [_quantize("Q4_1", seed=1), _quantize("Q5_0", seed=2)]
    packed = pack(mixed)
    assert packed.bits == 5
    assert packed.has_minimum
    expected = np.concatenate([part.dequantize() for part in mixed])
    np.testing.assert_allclose(packed.unpack(), expected, rtol=1e-6, atol=1e-6)


def test_widths_that_fill_neither_blocks_nor_tiles_are_filled_up() -> None:
    values = np.random.default_rng(0).standard_normal((21, 40)).astype(np.float32)
    tensor = RawTensor("x", "F32", values.shape, values.view(np.uint8))
    packed = pack([tensor])
    assert packed.unpack().shape == (21, 40)
    assert np.abs(packed.unpack() - values).max() < 0.02


def test_a_stack_is_packed_matrix_by_matrix() -> None:
    values = np.random.default_rng(0).standard_normal((3, 16, 32)).astype(np.float32)
    stack = RawTensor("x", "F32", values.shape, values.reshape(48, 32).view(np.uint8))
    for packed, matrix in zip(pack_stack([stack], whole=True), values, strict=True):
        np.testing.assert_array_equal(packed.unpack(), matrix)


def _quantize(kind: str, *, seed: int = 0) -> RawTensor:
    values = np.random.default_rng(seed).standard_normal((16, 96)).astype(np.float32)
    blocks = quantize(values, GGMLQuantizationType[kind])
    return RawTensor("x", kind, values.shape, np.ascontiguousarray(blocks).view(np.uint8))


def _random_blocks(kind: str) -> RawTensor:
    block, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = np.random.default_rng(3).integers(0, 90, (8, width)).astype(np.uint8)
    return RawTensor("x", kind, (8, block), blocks)
