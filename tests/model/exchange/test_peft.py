"""What we export loads in `peft` with equal logits, and what `peft` saves comes in as it was."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from peft import IA3Config, PeftModel

from fluvial.errors import ConflictError, InputError, ModelError, StorageError, UnsupportedError
from fluvial.model.adapter import create_tensors, list_shapes
from fluvial.model.adapter_file import decode, encode
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.exchange import export_peft, import_peft
from tests.convert import write_gguf
from tests.families import create_random_adapter, create_tiny
from tests.model.exchange.peft_sample import save_lora, save_peft
from tests.model.exchange.sample import (
    create_plain_adapter,
    find_error,
    open_tiny,
    run_model,
    run_ours,
    run_peft,
)
from tests.reference import load_reference

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning"),
]

NAMES = ["llama", "llama-tied", "qwen2", "qwen3", "gemma3", "lfm2", "lfm2-moe", "qwen3-moe"]


@pytest.mark.parametrize("name", NAMES)
def test_an_export_computes_the_same_in_peft_and_comes_back_bit_for_bit(
    name: str, tmp_path: Path
) -> None:
    checkpoint = open_tiny(name)
    tensors = create_plain_adapter(checkpoint)
    loss = export_peft(
        tensors, declaration=checkpoint.declaration, base_name="a/b", folder=tmp_path / "lora"
    )
    assert loss.overall == 0
    ours = run_ours(checkpoint, tensors)
    assert find_error(run_ours(checkpoint), ours) > 0.1
    assert find_error(run_peft(name, tmp_path / "lora"), ours) < 1e-5
    found = import_peft(tmp_path / "lora", declaration=checkpoint.declaration, rank_limit=4)
    assert found.loss.overall == 0
    assert found.tensors.keys() == tensors.keys()
    assert all(np.array_equal(found.tensors[key], each) for key, each in tensors.items())


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_an_adapter_of_a_gguf_file_computes_the_same_in_peft(name: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_gguf(create_tiny(name), tmp_path / "model.gguf"))
    tensors = create_plain_adapter(checkpoint)
    export_peft(tensors, declaration=checkpoint.declaration, base_name="x", folder=tmp_path / "p")
    assert find_error(run_peft(name, tmp_path / "p"), run_ours(checkpoint, tensors)) < 1e-5


def test_a_new_adapter_goes_out_and_in_as_the_base(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_tensors(checkpoint.declaration, rank=3, seed=5)
    export_peft(tensors, declaration=checkpoint.declaration, base_name="x", folder=tmp_path)
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=8)
    assert all(np.array_equal(found.tensors[key], each) for key, each in tensors.items())


def test_the_config_says_a_scale_of_one_and_the_base(tmp_path: Path) -> None:
    checkpoint = open_tiny("qwen2")
    tensors = create_plain_adapter(checkpoint, rank=6)
    export_peft(tensors, declaration=checkpoint.declaration, base_name="a/b", folder=tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (6, 6, {})
    assert config["base_model_name_or_path"] == "a/b"
    linears = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert config["target_modules"] == linears


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"v_proj": 7}, "alpha_pattern": {"layers.1.mlp.down_proj": 40}},
        {"rank_pattern": {"^model.layers.0.self_attn.q_proj": 1, "q.proj": 2}},
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]},
        {"lora_alpha": -4, "layers_to_transform": [1]},
        {"init_lora_weights": "gaussian", "lora_dropout": 0.1, "use_rslora": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_what_peft_saves_computes_the_same_here(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    checkpoint = open_tiny(name)
    expected = run_model(save_lora(name, tmp_path, **config))
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=64)
    assert found.loss.overall == 0
    assert find_error(run_ours(checkpoint), expected) > 0.05
    assert find_error(run_ours(checkpoint, found.tensors), expected) < 1e-5
    saved = encode(found.tensors, checkpoint="x")
    decode(saved, declaration=checkpoint.declaration, checkpoint="x")


def test_different_a_are_put_one_after_another_and_missing_linears_change_nothing(
    tmp_path: Path,
) -> None:
    checkpoint = open_tiny("llama")
    save_lora("llama", tmp_path)
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=64).tensors
    assert {name: each.shape for name, each in found.items()} == list_shapes(
        checkpoint.declaration, rank=6
    )
    assert not found["layers.0.gate_up.b"].any()
    assert not found["layers.0.qkv.b"][:, 64:96].any()
    assert not found["layers.0.qkv.b"][:3, 96:].any()
    assert not found["layers.0.qkv.b"][3:, :64].any()
    assert not found["layers.0.down.b"][3:].any()
    # Rows that fill up change nothing, yet can learn.
    assert found["layers.0.down.a"][:, 3:].any(axis=0).all()


def test_a_rank_over_the_limit_is_compressed_and_the_loss_is_told(tmp_path: Path) -> None:
    checkpoint = open_tiny("qwen2")
    save_lora("qwen2", tmp_path, target_modules=["q_proj", "k_proj", "v_proj", "down_proj"])
    exact = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=9)
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=4)
    assert exact.loss.overall == 0
    assert found.loss.groups.keys() == {"layers.0.qkv", "layers.1.qkv"}
    lost = whole = 0.0
    for name in exact.tensors:
        if not name.endswith(".a"):
            continue
        group = name.removesuffix(".a")
        before = exact.tensors[name] @ exact.tensors[f"{group}.b"]
        after = found.tensors[name] @ found.tensors[f"{group}.b"]
        assert found.tensors[name].shape[1] == 4
        lost += np.linalg.norm(before - after) ** 2
        whole += np.linalg.norm(before) ** 2
        if group in found.loss.groups:
            error = np.linalg.norm(before - after) / np.linalg.norm(before)
            assert found.loss.groups[group] == pytest.approx(error, rel=1e-4)
    assert found.loss.overall == pytest.approx((lost / whole) ** 0.5, rel=1e-4)
    assert 0.05 < found.loss.overall < 0.9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_in_as_it_is(dtype: torch.dtype, tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    save_lora("llama", tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    halves = {name: each.to(dtype) for name, each in safetensors.torch.load_file(path).items()}
    safetensors.torch.save_file(halves, path)
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=6).tensors
    expected = halves["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]
    assert np.array_equal(found["layers.1.down.a"][:, :3].T, expected.float().numpy())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"bias": "lora_only"}, "bias is 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save is \['lm_head'\]"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"embed_tokens\.(base_layer|lora)"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2], [0, 2]]}, "layer_replication"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
    ],
    ids=str,
)
def test_what_is_more_than_plain_lora_is_refused_by_its_name(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_lora("qwen2", tmp_path, **config)
    with pytest.raises(UnsupportedError, match=message):
        import_peft(tmp_path, declaration=open_tiny("qwen2").declaration, rank_limit=64)


def test_other_kinds_of_adapters_are_refused_by_their_names(tmp_path: Path) -> None:
    kind = IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
    save_peft("llama", tmp_path, kind)
    with pytest.raises(UnsupportedError, match="peft_type is 'IA3'"):
        import_peft(tmp_path, declaration=open_tiny("llama").declaration, rank_limit=64)


def test_a_lora_on_the_head_is_refused_by_its_name(tmp_path: Path) -> None:
    save_lora("llama", tmp_path, target_modules=["q_proj", "lm_head"])
    with pytest.raises(UnsupportedError, match=r"'base_model\.model\.lm_head"):
        import_peft(tmp_path, declaration=open_tiny("llama").declaration, rank_limit=64)


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-next", "qwen3-moe-mixed"])
def test_a_mixture_that_peft_would_load_wrongly_is_refused(name: str, tmp_path: Path) -> None:
    checkpoint = open_tiny(name)
    with pytest.raises(UnsupportedError, match="routed experts"):
        export_peft(
            create_plain_adapter(checkpoint),
            declaration=checkpoint.declaration,
            base_name="x",
            folder=tmp_path,
        )
    assert not list(tmp_path.iterdir())


def test_an_export_replaces_nothing(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_plain_adapter(checkpoint)
    (tmp_path / "adapter_config.json").write_text("mine")
    with pytest.raises(ConflictError, match=r"adapter_config\.json exists"):
        export_peft(tensors, declaration=checkpoint.declaration, base_name="x", folder=tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["adapter_config.json"]
    assert (tmp_path / "adapter_config.json").read_text() == "mine"


def test_a_folder_that_can_not_be_made_is_a_storage_error(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="can't be written"):
        export_peft(
            create_plain_adapter(checkpoint),
            declaration=checkpoint.declaration,
            base_name="x",
            folder=tmp_path / "file" / "lora",
        )


def test_tensors_that_are_no_adapter_of_the_model_are_not_exported(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_plain_adapter(checkpoint)
    broken = {
        "not finite": {**tensors, "layers.0.o.b": tensors["layers.0.o.b"] * np.nan},
        r"'layers\.1\.o\.a'": {**tensors, "layers.1.o.a": tensors["layers.1.o.a"][1:]},
        r"'layers\.9\.gain'": {**tensors, "layers.9.gain": tensors["layers.0.gain"]},
        "no matrix A": {},
    }
    for message, each in broken.items():
        with pytest.raises(ModelError, match=message):
            export_peft(each, declaration=checkpoint.declaration, base_name="x", folder=tmp_path)


def test_a_rank_limit_is_at_least_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 or more"):
        import_peft(tmp_path, declaration=open_tiny("llama").declaration, rank_limit=0)


def test_gains_are_refused_where_only_the_exact_will_do(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_random_adapter(checkpoint.declaration)
    with pytest.raises(UnsupportedError, match=r"layers\.0\.gain"):
        export_peft(tensors, declaration=checkpoint.declaration, base_name="x", folder=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_adapter_of_the_real_model_computes_the_same_in_peft(
    small_model_path: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(small_model_path)
    tensors = create_plain_adapter(checkpoint, rank=8)
    export_peft(tensors, declaration=checkpoint.declaration, base_name="x", folder=tmp_path)
    model = PeftModel.from_pretrained(load_reference(checkpoint), tmp_path)
    ours = run_ours(checkpoint, tensors)
    assert find_error(run_ours(checkpoint), ours) > 0.05
    assert find_error(run_model(model), ours) < 1e-4
