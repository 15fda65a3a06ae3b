"""Rotary frequencies from config.json in its older and its newer form."""

import json
from pathlib import Path
from typing import Any

import pytest

from fluvial.errors import ModelError
from fluvial.model.checkpoint import open_checkpoint
from tests.families import FAMILIES


@pytest.mark.parametrize("name", ["llama", "llama-llama3", "llama-linear", "llama-yarn"])
def test_the_older_form_of_config_json_is_the_same_model(name: str, tmp_path: Path) -> None:
    new, config = _open(name, tmp_path)
    rope = config.pop("rope_parameters")
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    config["rope_theta"] = theta
    config["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    assert _reopen(config, tmp_path) == new


@pytest.mark.parametrize("name", ["gemma3", "gemma3-capped"])
def test_the_older_form_of_gemma3_is_the_same_model(name: str, tmp_path: Path) -> None:
    new, config = _open(name, tmp_path)
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"].pop("rope_theta")
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    scaled = rope["full_attention"]["rope_type"] != "default"
    config["rope_scaling"] = rope["full_attention"] if scaled else None
    del config["layer_types"], config["_sliding_window_pattern"]
    config["sliding_window_pattern"] = 6
    assert _reopen(config, tmp_path) == new


def test_the_older_form_of_lfm2_is_the_same_model(tmp_path: Path) -> None:
    new, config = _open("lfm2", tmp_path)
    kinds = config.pop("layer_types")
    config["full_attn_idxs"] = [n for n, kind in enumerate(kinds) if kind == "full_attention"]
    config["block_ff_dim"] = config.pop("intermediate_size")
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    assert _reopen(config, tmp_path) == new


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        ({"rope_type": "magic"}, "must be one of default, linear, llama3, yarn"),
        ({"rope_type": "linear"}, r"rope_parameters\.factor is None"),
        ({"rope_type": "linear", "factor": -1}, "must be a positive number"),
        ({"rope_theta": 0.5}, "must be a positive number from 1"),
        (
            {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4},
            "must be greater than low_freq_factor, which is 4",
        ),
        ([1], "rope_parameters is .* it must be an object"),
    ],
)
def test_scaling_that_makes_no_sense_is_named(rope: Any, message: str, tmp_path: Path) -> None:
    _, config = _open("llama", tmp_path)
    with pytest.raises(ModelError, match=message):
        _reopen({**config, "rope_parameters": rope}, tmp_path)


def _open(name: str, folder: Path) -> tuple[object, dict[str, Any]]:
    FAMILIES[name](folder)
    config = json.loads((folder / "config.json").read_text())
    return open_checkpoint(folder).declaration, config


def _reopen(config: dict[str, Any], folder: Path) -> object:
    (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder).declaration
