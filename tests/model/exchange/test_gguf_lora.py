"""A GGUF LoRA of ours computes the same in llama.cpp, and comes back bit for bit."""

import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import quantize

from fluvial.bench.quality import cut_windows
from fluvial.errors import ConflictError, ModelError, UnsupportedError
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.exchange import export_gguf, import_gguf
from fluvial.model.module import Module
from tests import convert, convert_mixture
from tests.families import create_tiny
from tests.model.exchange.llama_lora import predict, score
from tests.model.exchange.sample import Arrays, create_plain_adapter, find_error, open_tiny

IDS = range(5, 45)
NAMES = ["llama", "qwen2", "qwen3", "gemma3", "lfm2", "lfm2-moe", "qwen3-moe", "qwen3-next"]


def write_tiny(name: str, folder: Path) -> Checkpoint:
    model = create_tiny(name)
    mixture = model.config.model_type in convert_mixture._ARCHITECTURES
    write = convert_mixture.write_gguf if mixture else convert.write_gguf
    return open_checkpoint(write(model, folder / "model.gguf"))


def predict_ours(checkpoint: Checkpoint, tensors: Arrays | None) -> torch.Tensor:
    module = Module(checkpoint)
    adapter = tensors and {name: torch.from_numpy(each) for name, each in tensors.items()}
    hidden, _ = module.read(torch.tensor(IDS), adapter=adapter)
    return module.logits(hidden[-1:]).log_softmax(dim=-1)[0]


@pytest.mark.parametrize("name", NAMES)
def test_an_export_computes_the_same_in_llama_cpp_and_comes_back_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    checkpoint = write_tiny(name, tmp_path)
    tensors, path = create_plain_adapter(checkpoint), tmp_path / "lora.gguf"
    assert export_gguf(tensors, declaration=checkpoint.declaration, path=path).overall == 0
    found = import_gguf(path, declaration=checkpoint.declaration, rank_limit=4)
    assert found.loss.overall == 0
    assert all(np.array_equal(found.tensors[key], each) for key, each in tensors.items())
    ours = predict_ours(checkpoint, tensors)
    assert find_error(predict_ours(checkpoint, None), ours) > 0.05
    size = checkpoint.declaration.vocab_size
    theirs = torch.tensor(predict(checkpoint.path, IDS, vocab_size=size, lora=path))
    # llama.cpp takes GELU from a table of halves: gemma3 is as far off without any LoRA.
    assert find_error(theirs, ours) < (3e-4 if name == "gemma3" else 1e-5)


def test_rows_are_in_the_order_of_the_models_own_file(tmp_path: Path) -> None:
    checkpoint = write_tiny("llama", tmp_path)
    tensors, path = create_plain_adapter(checkpoint), tmp_path / "lora.gguf"
    export_gguf(tensors, declaration=checkpoint.declaration, path=path)
    file = {each.name: each.data for each in gguf.GGUFReader(path).tensors}
    ours = tensors["layers.0.qkv.b"][:, :64].T
    theirs = file["blk.0.attn_q.weight.lora_b"]
    assert not np.array_equal(theirs, ours)
    # Heads of 16 features: llama.cpp has feature i and i + 8 of ours side by side.
    assert np.array_equal(theirs[16:32:2], ours[16:24])
    assert np.array_equal(theirs[17:32:2], ours[24:32])
    assert np.array_equal(file["blk.0.attn_v.weight.lora_b"], tensors["layers.0.qkv.b"][:, 96:].T)


def write_lora(path: Path, arrays: Arrays, **metadata: Any) -> Path:
    """Write a LoRA for the tiny llama with a writer that is not ours; None leaves a key out."""
    values = {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.architecture": "llama",
        **metadata,
    }
    writer = gguf.GGUFWriter(str(path), values.pop("general.architecture"))
    for key, value in values.items():
        if isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make_pair(name: str, inputs: int, outputs: int, *, rank: int = 2) -> Arrays:
    rng = np.random.Generator(np.random.PCG64(0))
    shapes = {"lora_a": (rank, inputs), "lora_b": (outputs, rank)}
    return {
        f"{name}.weight.{end}": rng.standard_normal(shape).astype(np.float32)
        for end, shape in shapes.items()
    }


DOWN = make_pair("blk.1.ffn_down", 96, 64)


@pytest.mark.parametrize(("alpha", "scale"), [(8.0, 4.0), (0.0, 1.0), (None, 1.0), (-1.0, -0.5)])
def test_alpha_is_the_scale_times_the_rank(
    alpha: float | None, scale: float, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "lora.gguf", DOWN, **{"adapter.lora.alpha": alpha})
    found = import_gguf(path, declaration=open_tiny("llama").declaration, rank_limit=8).tensors
    assert np.array_equal(found["layers.1.down.a"], DOWN["blk.1.ffn_down.weight.lora_a"].T)
    assert np.array_equal(found["layers.1.down.b"], DOWN["blk.1.ffn_down.weight.lora_b"].T * scale)
    assert not found["layers.0.down.b"].any()


def test_quantised_terms_are_read_as_llama_cpp_reads_them(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q8_0
    blocks = quantize(DOWN["blk.1.ffn_down.weight.lora_a"], kind)
    path = tmp_path / "lora.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_tensor("blk.1.ffn_down.weight.lora_a", blocks, raw_dtype=kind)
    b = DOWN["blk.1.ffn_down.weight.lora_b"].astype(np.float16)
    writer.add_tensor("blk.1.ffn_down.weight.lora_b", b)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = import_gguf(path, declaration=open_tiny("llama").declaration, rank_limit=8).tensors
    expected = gguf.quants.dequantize(blocks, kind)
    assert np.array_equal(found["layers.1.down.a"].T, expected)
    assert np.array_equal(found["layers.1.down.b"].T, b.astype(np.float32))


@pytest.mark.parametrize(
    ("metadata", "error", "message"),
    [
        ({"general.type": "model"}, UnsupportedError, "general.type is 'model'"),
        ({"general.type": None}, UnsupportedError, "general.type is None"),
        ({"adapter.type": "control_vector"}, UnsupportedError, "adapter.type is 'control_vector'"),
        ({"general.architecture": "qwen2"}, ModelError, "'qwen2' family, this one is 'llama'"),
        ({"adapter.lora.alpha": math.nan}, ModelError, "alpha is nan"),
        ({"adapter.lora.alpha": 1e30}, ModelError, "alpha is 1"),
        ({"adapter.lora.alpha": "8"}, ModelError, "alpha is '8'"),
        ({"adapter.lora.prompt_prefix": "x"}, UnsupportedError, "adapter.lora.prompt_prefix"),
        ({"adapter.alora.invocation_tokens": "x"}, UnsupportedError, "adapter.alora"),
    ],
    ids=str,
)
def test_metadata_that_is_not_a_plain_loras_is_refused(
    metadata: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "lora.gguf", DOWN, **metadata)
    with pytest.raises(error, match=message):
        import_gguf(path, declaration=open_tiny("llama").declaration, rank_limit=8)


def test_terms_that_llama_cpp_would_leave_out_are_not_exported(tmp_path: Path) -> None:
    checkpoint = open_tiny("deepseek-v3")
    tensors, path = create_plain_adapter(checkpoint), tmp_path / "lora.gguf"
    with pytest.raises(UnsupportedError, match=r"layers\.0\.q_down"):
        export_gguf(tensors, declaration=checkpoint.declaration, path=path)
    assert not path.exists()
    left_out = (".q_down.b", ".q.b", ".kv_down.b")
    rest = {name: each * (not name.endswith(left_out)) for name, each in tensors.items()}
    export_gguf(rest, declaration=checkpoint.declaration, path=path)
    assert path.exists()


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    checkpoint, path = open_tiny("llama"), tmp_path / "lora.gguf"
    path.write_text("mine")
    with pytest.raises(ConflictError, match="exists already"):
        export_gguf(create_plain_adapter(checkpoint), declaration=checkpoint.declaration, path=path)
    assert path.read_text() == "mine"


@pytest.mark.slow
def test_the_real_model_tells_a_text_the_same_in_llama_cpp(
    small_model_path: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(small_model_path)
    tensors = create_plain_adapter(checkpoint, rank=8)
    tensors = {name: each * (2.5 if name.endswith(".b") else 1.0) for name, each in tensors.items()}
    tensors = {name: each.astype(np.float32) for name, each in tensors.items()}
    export_gguf(tensors, declaration=checkpoint.declaration, path=tmp_path / "lora.gguf")
    text = Path(__file__).parents[3] / "docs" / "architecture.md"
    windows = cut_windows(text, checkpoint, tokens=256, window_tokens=128)
    theirs = score(small_model_path, windows, lora=tmp_path / "lora.gguf")
    module = Module(checkpoint)
    adapter = {name: torch.from_numpy(each) for name, each in tensors.items()}
    means = {"base": 0.0, "ours": 0.0, "theirs": float(np.mean(sum(theirs, [])))}
    for window in windows:
        ids = torch.tensor(window)
        for name, used in (("base", None), ("ours", adapter)):
            hidden, _ = module.read(ids[:-1], adapter=used)
            means[name] += float(module.losses(hidden, ids[1:]).mean()) / len(windows)
    # What is left is llama.cpp's rounding of activations to 8 bits: 0.01 with or without a LoRA.
    assert abs(means["theirs"] - means["ours"]) < 0.05
    assert abs(means["base"] - means["ours"]) > 0.2
