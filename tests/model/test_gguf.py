"""GGUF files: what the reference package reads, we read; what is damaged is refused by name."""

import contextlib
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluvial.errors import ModelError
from fluvial.model.gguf import SUPPORTED, RawTensor, read
from tests.tiny import write_tiny_model

HEADER_BYTES = 12_000


def test_metadata_and_tensors_are_what_the_reference_reader_finds(tiny_model: Path) -> None:
    ours, theirs = read(tiny_model), gguf.GGUFReader(tiny_model)
    assert ours.metadata["general.architecture"] == "llama"
    assert ours.metadata["tokenizer.ggml.tokens"] == (
        theirs.fields["tokenizer.ggml.tokens"].contents()
    )
    assert {t.name for t in theirs.tensors} == ours.tensors.keys()
    for tensor in theirs.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_array_equal(
            ours.tensors[tensor.name].dequantize(), expected.reshape(*reversed(tensor.shape))
        )


@pytest.mark.parametrize("kind", [k for k in SUPPORTED if k not in ("Q4_K", "Q5_K", "Q6_K")])
def test_every_type_the_reference_can_write_is_read(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    written = gguf.GGMLQuantizationType[kind]
    blocks = quantize(values, written)
    path = _write_one(tmp_path / "one.gguf", blocks, written)
    np.testing.assert_array_equal(
        read(path).tensors["x"].dequantize(), gguf.dequantize(blocks, written).reshape(8, 64)
    )


@pytest.mark.parametrize("kind", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_blocks_are_read_row_by_row(kind: str, tmp_path: Path) -> None:
    written = gguf.GGMLQuantizationType[kind]
    width = gguf.GGML_QUANT_SIZES[written][1]
    blocks = np.random.default_rng(1).integers(0, 100, (6, width)).astype(np.uint8)
    tensor = read(_write_one(tmp_path / "one.gguf", blocks, written)).tensors["x"]
    whole = gguf.dequantize(blocks, written).reshape(6, 256)
    np.testing.assert_array_equal(tensor.dequantize([4, 1]), whole[[4, 1]])


def test_wrong_magic_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelError, match=r"starts with b'PK.*a GGUF file starts with b'GGUF'"):
        read(path)


def test_an_unsupported_type_names_those_that_are(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.IQ4_NL
    path = _write_one(tmp_path / "one.gguf", np.zeros((4, 18), np.uint8), kind)
    with pytest.raises(ModelError, match=r"'x' is IQ4_NL; supported are F32, F16"):
        read(path)


def test_a_metadata_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    entry = b"\x01\0\0\0\0\0\0\0a" + b"\0\0\0\0" + b"\x07"
    path = tmp_path / "twice.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + bytes(8) + b"\x02" + bytes(7) + entry * 2)
    with pytest.raises(ModelError, match="metadata 'a' twice"):
        read(path)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_numbers_that_are_not_finite_are_refused(kind: str) -> None:
    size, width = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    for pattern in (b"\xff", b"\x7c\x7c", b"\x00\x7c", b"\x80\x7f"):
        data = np.frombuffer(pattern * width, np.uint8)[:width]
        blocks = np.stack([np.zeros(width, np.uint8), data])
        tensor = RawTensor("x", kind, (2, size), blocks)
        assert not tensor.dequantize([0]).any()
        assert tensor.dequantize([]).shape == (0, size)
        with contextlib.suppress(ModelError):
            assert np.isfinite(tensor.dequantize()).all()
    with pytest.raises(ModelError, match="not finite"):
        RawTensor("x", kind, (1, size), np.full((1, width), 0xFF, np.uint8)).dequantize()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.9, 0.999])
def test_a_truncated_file_says_so(share: float, tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"truncated|too short|claims"):
        read(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, HEADER_BYTES), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_header_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, at: int, bit: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.gguf"
    if not whole.exists():
        write_tiny_model(whole)
    data = bytearray(whole.read_bytes())
    data[at] ^= 1 << bit
    path = folder / "flipped.gguf"
    path.write_bytes(data)
    tensors, refusal = _read_or_refuse(path)
    assert all(tensor.blocks.nbytes <= len(data) for tensor in tensors)
    assert refusal is None or "flipped.gguf" in refusal.message


def _read_or_refuse(path: Path) -> tuple[list[RawTensor], ModelError | None]:
    try:
        return [*read(path).tensors.values()], None
    except ModelError as error:
        return [], error


def _write_one(path: Path, blocks: np.ndarray, kind: gguf.GGMLQuantizationType) -> Path:
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_tensor("x", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
