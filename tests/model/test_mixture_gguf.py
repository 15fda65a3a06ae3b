"""GGUF files of families with experts: the same model as the folder, and as llama.cpp reads it."""

import re
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module import Module
from tests.convert_mixture import write_gguf
from tests.families import FAMILIES
from tests.llama_cpp import predict

IDS = torch.arange(7, 127) * 5 % 300
FILES = ("lfm2-moe", "qwen3-moe", "qwen3-next", "deepseek-v3")


@pytest.mark.parametrize("name", FILES)
def test_gguf_gives_the_same_model_as_the_folder(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    from_file, from_folder = open_checkpoint(path), open_checkpoint(tmp_path / "folder")
    assert _round(from_file.declaration) == _round(from_folder.declaration)
    for weight in from_folder.weights:
        expected = from_folder.matrix(weight)
        np.testing.assert_allclose(from_file.matrix(weight), expected, rtol=1e-6, atol=1e-6)
    assert _differ(Module(from_file), model) < 1e-4


def test_a_latent_model_without_low_rank_queries_opens(tmp_path: Path) -> None:
    model = FAMILIES["deepseek-v3-plain"](tmp_path / "folder")
    model.config.rope_interleave = True
    path = write_gguf(model, tmp_path / "model.gguf")
    assert _differ(Module(open_checkpoint(path)), model) < 1e-4


def test_the_older_form_of_qwen3_next_is_the_same_model(tmp_path: Path) -> None:
    model = FAMILIES["qwen3-next"](tmp_path / "folder")
    old = open_checkpoint(write_gguf(model, tmp_path / "old.gguf", legacy=True))
    new = open_checkpoint(write_gguf(model, tmp_path / "new.gguf"))
    assert old.declaration == new.declaration
    for weight in new.weights:
        np.testing.assert_array_equal(old.matrix(weight), new.matrix(weight))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("deepseek-v3", "expert_gating_func", 1, r"must be 2 \(sigmoid, as in DeepSeek-V3\)"),
        ("deepseek-v3", "expert_gating_func", None, r"must be 2 \(sigmoid"),
        ("deepseek-v3", "attention.key_length_mla", None, "key_length_mla is None"),
        ("deepseek-v3", "attention.key_length_mla", 8, "key_length_mla is 8"),
        ("deepseek-v3", "nextn_predict_layers", 1, "further tokens are not supported"),
        ("deepseek-v3", "rope.scaling.yarn_log_multiplier", None, "yarn_log_multiplier is None"),
        ("deepseek-v3", "rope.scaling.type", "longrope", "must be one of none, linear, yarn"),
        ("deepseek-v3", "expert_group_count", 3, "don't go with 3 groups"),
        ("qwen3-next", "rope.dimension_count", None, "dimension_count is None"),
        ("qwen3-next", "rope.dimension_count", 64, "must be a whole number from 1 to 32"),
        ("qwen3-next", "ssm.inner_size", 66, "must be a multiple of the 4 value heads"),
        ("qwen3-next", "full_attention_interval", 2, r"no tensor 'blk\.1\."),
        ("qwen3-moe", "expert_count", 8, "the model needs"),
        ("qwen3-moe", "expert_count", 0, "must be a whole number"),
        ("lfm2-moe", "leading_dense_block_count", 0, r"no tensor 'blk\.0\.ffn_gate_inp"),
    ],
)
def test_bad_hyperparameters_are_named(
    name: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    model = FAMILIES[name](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    _change(path, key, value)
    with pytest.raises(ModelError, match=message):
        open_checkpoint(path)


def test_a_decay_that_grows_is_refused(tmp_path: Path) -> None:
    model = FAMILIES["qwen3-next"](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    tensor = next(t for t in gguf.GGUFReader(path, "r+").tensors if t.name.endswith("ssm_a"))
    tensor.data[0] = 0.5
    with pytest.raises(ModelError, match="'ssm_a' holds values that are not negative"):
        open_checkpoint(path)


@pytest.mark.parametrize("lost", ["attn_k_b", "attn_v_b"])
def test_a_lost_half_of_keys_and_values_is_named(lost: str, tmp_path: Path) -> None:
    model = FAMILIES["deepseek-v3"](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes().replace(lost.encode(), b"attn_x_x"))
    with pytest.raises(ModelError, match=f"no tensor 'blk.0.{lost}.weight'"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_reads_the_files_alike(name: str, tmp_path: Path) -> None:
    """The files that the tests above trust are what llama.cpp understands by these names."""
    model = FAMILIES[name](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    ids = IDS[:40].tolist()
    found = torch.tensor(predict(path, ids, vocab_size=300))
    module = Module(open_checkpoint(path))
    expected = module.logits(module.read(torch.tensor(ids))[0])[-1].log_softmax(-1)
    assert float((found - expected).norm() / expected.norm()) < 1e-4


def _change(path: Path, key: str, value: object) -> None:
    """Write the file again with one hyperparameter changed, or left out."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    whole = f"{architecture}.{key}"
    writer = gguf.GGUFWriter(str(path.with_suffix(".new")), architecture)
    for name, field in reader.fields.items():
        if not name.startswith(("GGUF.", "general.", "tokenizer.")) and name != whole:
            _add(writer, name, field)
    if isinstance(value, int):
        writer.add_uint32(whole, value)
    elif value is not None:
        writer.add_string(whole, str(value))
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path.with_suffix(".new").replace(path)


def _add(writer: gguf.GGUFWriter, name: str, field: gguf.ReaderField) -> None:
    kind, *rest = field.types
    writer.add_key_value(name, field.contents(), kind, sub_type=rest[0] if rest else None)


def _differ(module: Module, model: PreTrainedModel) -> float:
    with torch.no_grad():
        expected = model(IDS[None]).logits[0]
    return float((module.logits(module.read(IDS)[0]) - expected).norm() / expected.norm())


def _round(declaration: Declaration) -> str:
    """Write a declaration with its numbers rounded: GGUF keeps float32."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", repr(declaration))
