"""Write a saved tiny model with experts as GGUF, the way llama.cpp's converter does.

Beside `convert`: these families transform more. Tensors get their names from the `gguf` package's
own map.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tests.convert import add_tokenizer

Array = NDArray[np.float32]
Named = Iterator[tuple[str, Array]]
_ARCHITECTURES = {
    "qwen3_moe": gguf.MODEL_ARCH.QWEN3MOE,
    "qwen3_next": gguf.MODEL_ARCH.QWEN3NEXT,
    "lfm2_moe": gguf.MODEL_ARCH.LFM2MOE,
    "deepseek_v3": gguf.MODEL_ARCH.DEEPSEEK2,
}


def write_gguf(model: PreTrainedModel, path: Path, *, legacy: bool = False) -> Path:
    """Write the float32 model; `legacy` keeps qwen3_next's q, k, v and z in one tensor."""
    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[architecture])
    add_tokenizer(writer, config.vocab_size)
    _add_decoder(writer, config)
    _ADD[config.model_type](writer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, array in _convert(model, legacy=legacy):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(found or name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_decoder(writer: gguf.GGUFWriter, config: Any) -> None:
    experts = getattr(config, "n_routed_experts", None) or config.num_experts
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_expert_count(experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_expert_feed_forward_length(config.moe_intermediate_size)


def _add_qwen3_moe(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def _add_qwen3_next(writer: gguf.GGUFWriter, config: Any) -> None:
    _add_qwen3_moe(writer, config)
    writer.add_expert_shared_feed_forward_length(config.shared_expert_intermediate_size)
    writer.add_ssm_conv_kernel(config.linear_conv_kernel_dim)
    writer.add_ssm_state_size(config.linear_key_head_dim)
    writer.add_ssm_group_count(config.linear_num_key_heads)
    writer.add_ssm_time_step_rank(config.linear_num_value_heads)
    writer.add_ssm_inner_size(config.linear_value_head_dim * config.linear_num_value_heads)
    writer.add_full_attention_interval(4)
    share = config.rope_parameters["partial_rotary_factor"]
    writer.add_rope_dimension_count(int(config.head_dim * share))


def _add_lfm2_moe(writer: gguf.GGUFWriter, config: Any) -> None:
    kinds, kv_heads = config.layer_types, config.num_key_value_heads
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_head_count_kv([0 if kind == "conv" else kv_heads for kind in kinds])
    writer.add_leading_dense_block_count(config.num_dense_layers)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_vocab_size(config.vocab_size)
    writer.add_shortconv_l_cache(config.conv_L_cache)


def _add_deepseek_v3(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_head_count_kv(1)
    writer.add_vocab_size(config.vocab_size)
    if config.q_lora_rank:
        writer.add_q_lora_rank(config.q_lora_rank)
    writer.add_kv_lora_rank(config.kv_lora_rank)
    writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
    writer.add_value_length(config.kv_lora_rank)
    writer.add_key_length_mla(config.qk_nope_head_dim + config.qk_rope_head_dim)
    writer.add_value_length_mla(config.v_head_dim)
    writer.add_rope_dimension_count(config.qk_rope_head_dim)
    writer.add_leading_dense_block_count(config.first_k_dense_replace)
    writer.add_expert_shared_count(config.n_shared_experts)
    writer.add_expert_weights_scale(config.routed_scaling_factor)
    if config.norm_topk_prob:
        writer.add_expert_weights_norm(True)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    if config.n_group > 1:
        writer.add_expert_group_count(config.n_group)
        writer.add_expert_group_used_count(config.topk_group)
    rope = config.rope_parameters
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])


_ADD: dict[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "qwen3_moe": _add_qwen3_moe,
    "qwen3_next": _add_qwen3_next,
    "lfm2_moe": _add_lfm2_moe,
    "deepseek_v3": _add_deepseek_v3,
}


def _convert(model: PreTrainedModel, *, legacy: bool) -> Named:
    """Yield the tensors in llama.cpp's layout, under names that the `gguf` package knows."""
    config = model.config
    for name, weight in model.state_dict().items():
        array: Array = weight.numpy()
        if config.tie_word_embeddings and name == "lm_head.weight":
            continue
        if ".experts." in name:
            yield from _separate_experts(name, array)
        elif name.endswith("kv_b_proj.weight"):
            yield from _separate_kv(name, array, config)
        elif config.model_type == "qwen3_next":
            yield from _convert_next(name, array, config, legacy=legacy)
        elif name.endswith("expert_bias"):
            yield f"{name}.bias", array
        elif name.endswith("e_score_correction_bias"):
            yield name.replace("correction_bias", "correction.bias"), array
        else:
            yield name, array.squeeze(1) if array.ndim == 3 else array


def _separate_experts(name: str, array: Array) -> Named:
    where, part = name.split(".experts.")
    words = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
    if where.endswith("feed_forward"):
        where, words = where.removeprefix("model."), {"gate": "w1", "up": "w3", "down": "w2"}
    if part == "down_proj":
        yield f"{where}.experts.{words['down']}.weight", array
        return
    gate, up = np.split(array, 2, axis=1)
    yield f"{where}.experts.{words['gate']}.weight", gate
    yield f"{where}.experts.{words['up']}.weight", up


def _separate_kv(name: str, array: Array, config: Any) -> Named:
    heads = array.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
    keys, values = np.split(heads, [config.qk_nope_head_dim], axis=1)
    yield name.replace("kv_b_proj", "k_b_proj"), keys.swapaxes(1, 2)
    yield name.replace("kv_b_proj", "v_b_proj"), values


def _convert_next(name: str, array: Array, config: Any, *, legacy: bool) -> Named:
    if name.endswith("in_proj_qkvz.weight"):
        layer = name.split(".")[2]
        if legacy:
            yield f"blk.{layer}.ssm_in.weight", array
        else:
            *qkv, z = _separate_qkvz(array, config)
            yield f"blk.{layer}.attn_qkv.weight", np.concatenate(qkv)
            yield f"blk.{layer}.attn_gate.weight", z
    elif name.endswith("A_log"):
        yield name, -np.exp(array)
    elif name.endswith("dt_bias"):
        yield name.replace("dt_bias", "dt_proj.bias"), array
    elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
        yield name, array + 1
    else:
        yield name, array.squeeze(1) if array.ndim == 3 else array


def _separate_qkvz(array: Array, config: Any) -> list[Array]:
    keys, repeats = config.linear_num_key_heads, config.linear_num_value_heads
    key, value = config.linear_key_head_dim, repeats // keys * config.linear_value_head_dim
    heads = array.reshape(keys, 2 * (key + value), -1)
    parts = np.split(heads, np.cumsum([key, key, value]), axis=1)
    return [part.reshape(-1, part.shape[-1]) for part in parts]
