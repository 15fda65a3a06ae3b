"""A tiny random checkpoint of every family, saved by `transformers`; adding a family is one entry.

Everything is seeded and drawn so that a wrong norm, scale, window or gate shows in the logits.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fluvial.model.architecture import find_family
from fluvial.model.architecture.declaration import Declaration, Layer
from fluvial.model.architecture.name import Rows
from fluvial.model.checkpoint import Checkpoint

VOCAB_SIZE = 300
_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "attn_implementation": "eager",
}
_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "original_max_position_embeddings": 64,
    **_LLAMA3,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
_DEEPSEEK_ROPE = {**_YARN_ROPE, "mscale": 1.0, "mscale_all_dim": 1.0}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 48, "norm_topk_prob": True}
_QWEN3_NEXT = {
    "head_dim": 32,
    "num_experts": 8,
    "shared_expert_intermediate_size": 40,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    **_EXPERTS,
}
_DEEPSEEK = {
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "n_routed_experts": 8,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 20,
    **_EXPERTS,
}
_GEMMA3 = {"num_hidden_layers": 7, "head_dim": 24, "sliding_window": 16}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-llama3": {"model_type": "llama", "rope_parameters": _LLAMA3_ROPE},
    "llama-linear": {"model_type": "llama", "rope_parameters": _LINEAR_ROPE},
    "llama-yarn": {"model_type": "llama", "rope_parameters": _YARN_ROPE},
    "qwen2": {"model_type": "qwen2"},
    "qwen2-sliding": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 24},
    "gemma3": {"model_type": "gemma3_text", "query_pre_attn_scalar": 24, **_GEMMA3},
    "gemma3-capped": {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 24,
        "final_logit_softcapping": 6.0,
        "rope_parameters": {
            "full_attention": {**_LINEAR_ROPE, "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        **_GEMMA3,
    },
    "lfm2": {
        "model_type": "lfm2",
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "intermediate_size": 100,
        "block_multiple_of": 32,
    },
    "lfm2-moe": {
        "model_type": "lfm2_moe",
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
        "num_dense_layers": 1,
        "num_experts": 8,
        **_EXPERTS,
    },
    "lfm2-moe-scaled": {
        "model_type": "lfm2_moe",
        "layer_types": ["conv", "full_attention"],
        "num_dense_layers": 0,
        "num_experts": 8,
        "use_expert_bias": False,
        "routed_scaling_factor": 1.5,
        **_EXPERTS,
        "norm_topk_prob": False,
    },
    "qwen3-moe": {"model_type": "qwen3_moe", "head_dim": 24, "num_experts": 9, **_EXPERTS},
    "qwen3-moe-mixed": {
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "num_experts": 6,
        "mlp_only_layers": [1],
        "decoder_sparse_step": 2,
        **_EXPERTS,
        "norm_topk_prob": False,
    },
    "qwen3-next": {"model_type": "qwen3_next", "num_hidden_layers": 4, **_QWEN3_NEXT},
    "qwen3-next-listed": {
        "model_type": "qwen3_next",
        "layer_types": ["full_attention", "linear_attention"],
        "mlp_only_layers": [0],
        "rope_parameters": {"rope_theta": 10_000.0, "partial_rotary_factor": 0.5},
        **_QWEN3_NEXT,
        "linear_num_key_heads": 4,
        "linear_value_head_dim": 24,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "q_lora_rank": 48,
        "rope_parameters": _DEEPSEEK_ROPE,
        **_DEEPSEEK,
    },
    "deepseek-v3-plain": {
        "model_type": "deepseek_v3",
        "q_lora_rank": None,
        "rope_interleave": False,
        "rms_norm_eps": 1e-3,
        **_DEEPSEEK,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": False,
    },
}


def save_tiny(name: str, folder: Path) -> PreTrainedModel:
    """Save the tiny checkpoint `name` to `folder` and return its `transformers` model."""
    model = create_tiny(name)
    model.save_pretrained(folder)
    return model


FAMILIES: dict[str, Callable[[Path], PreTrainedModel]] = {
    name: partial(save_tiny, name) for name in CONFIGS
}


def create_tiny(name: str, *, seed: int = 0) -> PreTrainedModel:
    """Make the tiny model `name`; the same seed gives the same weights."""
    kind = {**_SIZES, **CONFIGS[name]}
    config = AutoConfig.for_model(kind.pop("model_type"), **kind)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        saved = model.state_dict()
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            # Norms begin as all ones or zeros and biases as zeros, which would hide mistakes.
            if weight.ndim == 1 and name in saved:
                weight += 0.2 * torch.randn(weight.shape, generator=generator)
    return model.eval()


def merge_adapter(
    model: PreTrainedModel, checkpoint: Checkpoint, adapter: Mapping[str, np.ndarray[Any, Any]]
) -> None:
    """Write an adapter into the weights of the `transformers` model that was saved."""
    names = find_family(checkpoint.declaration.family, in_gguf=True).config_names
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for index, layer in enumerate(checkpoint.declaration.layers):
            for part, change in _list_changes(layer, adapter, f"layers.{index}").items():
                before, sources = names.find(f"layers.{index}.{part}")
                source = next(each for each in sources if isinstance(each, str | Rows))
                if isinstance(source, str):
                    weights[before + source] += torch.from_numpy(change)
                else:
                    weights[before + source.name][source.choose(layer)] += torch.from_numpy(change)
            _merge_gain(weights, names.find, layer, adapter, f"layers.{index}")


def _list_changes(
    layer: Layer, adapter: Mapping[str, np.ndarray[Any, Any]], at: str
) -> dict[str, np.ndarray[Any, Any]]:
    """Return the change [outputs, inputs] of each part of each group."""
    changes: dict[str, np.ndarray[Any, Any]] = {}
    for group in layer.groups:
        whole = (adapter[f"{at}.{group.name}.a"] @ adapter[f"{at}.{group.name}.b"]).T
        start = 0
        for part, outputs in group.parts:
            changes[part] = np.ascontiguousarray(whole[start : start + outputs])
            start += outputs
    return changes


def _merge_gain(
    weights: Mapping[str, torch.Tensor],
    find: Callable[[str], tuple[str, tuple[Any, ...]]],
    layer: Layer,
    adapter: Mapping[str, np.ndarray[Any, Any]],
    at: str,
) -> None:
    if f"{at}.gain" not in adapter:
        return
    before, sources = find(f"{at}.{layer.groups[-1].parts[0][0]}")
    weights[before + sources[0]] *= 1 + torch.from_numpy(adapter[f"{at}.gain"])


def create_random_adapter(
    declaration: Declaration, *, rank: int = 4, seed: int = 1
) -> dict[str, np.ndarray[Any, Any]]:
    """Make an adapter whose every tensor is far from zero."""
    from fluvial.model.adapter import list_shapes

    rng = np.random.Generator(np.random.PCG64(seed))
    return {
        name: (
            rng.standard_normal(shape) * (0.1 if shape[-1:] == shape else 0.5 * shape[0] ** -0.5)
        ).astype(np.float32)
        for name, shape in list_shapes(declaration, rank=rank).items()
    }
