"""Tiny random checkpoints of families that no declaration covers, saved by `transformers`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fluvial.model.outline import Outline

VOCAB_SIZE = 300
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "gpt_neox": {},
    "phi3": {},
    "gpt2": {"n_inner": 128},
    # Layers of which some forget: what lies behind the window can't be come back to.
    "cohere2": {"sliding_window": 16, "num_hidden_layers": 4, "sliding_window_pattern": 2},
}


def save_foreign(name: str, folder: Path) -> PreTrainedModel:
    """Save the tiny checkpoint `name` to `folder` and return its `transformers` model."""
    config = AutoConfig.for_model(name, **{**_SIZES, **CONFIGS[name]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    return model.requires_grad_(False).eval()


def change_config(folder: Path, **changes: Any) -> None:
    """Write entries of a folder's config.json anew; None removes one."""
    file = folder / "config.json"
    table = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in table.items() if value is not None}))


def merge_adapter(
    model: PreTrainedModel,
    outline: Outline,
    adapter: Mapping[str, np.ndarray[Any, Any]],
    *,
    blocks: str,
    down: str,
) -> None:
    """Write an adapter into a model's own weights; `blocks` and `down` are paths of modules."""
    with torch.no_grad():
        for index, layer in enumerate(outline.layers):
            block = model.get_submodule(f"{blocks}.{index}")
            for group in layer.groups:
                at = f"layers.{index}.{group.name}"
                change = torch.from_numpy(adapter[f"{at}.a"] @ adapter[f"{at}.b"])
                linear = block.get_submodule(group.name)
                linear.weight += change if isinstance(linear, Conv1D) else change.T
            gained = block.get_submodule(down)
            gain = 1 + torch.from_numpy(adapter[f"layers.{index}.gain"])
            gained.weight *= gain[:, None] if isinstance(gained, Conv1D) else gain
