"""Checkpoints: whole, named by their hash, the same from GGUF and from safetensors."""

import json
from pathlib import Path

import pytest

from fluvial.errors import ModelError
from fluvial.model.checkpoint import hash_files, open_checkpoint
from tests.families import save_tiny


def test_a_flipped_bit_in_the_weights_is_found_by_the_hash(
    tiny_model: Path, tmp_path: Path
) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[-5] ^= 4
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"is damaged: its sha256 is .* pull it again"):
        open_checkpoint(path, sha256=hash_files(tiny_model))


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny("llama", folder)
    config = json.loads((folder / "config.json").read_text())
    config["num_hidden_layers"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no tensor 'model\.layers\.2\.input_layernorm\.weight'"):
        open_checkpoint(folder)


def test_an_unknown_family_names_those_that_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(ModelError, match=r"'mamba' is not supported; supported are llama, .*qwen2"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_attention_heads", -4, "must be a whole number"),
        ("num_key_value_heads", 3, "don't go with 3 key heads"),
        ("rms_norm_eps", "small", "must be a positive number"),
        ("num_hidden_layers", 10**9, "must be a whole number"),
        ("rope_parameters", {"rope_type": "magic"}, "'magic'; it must be one of default"),
    ],
)
def test_a_bad_hyperparameter_is_named(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("size", [3, 40, 2000, 20_000])
def test_truncated_safetensors_are_refused(size: int, tmp_path: Path) -> None:
    save_tiny("qwen2", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        open_checkpoint(tmp_path)
