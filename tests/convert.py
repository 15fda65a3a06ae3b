"""Write a saved tiny model as GGUF, the way llama.cpp's converter does.

Tensors get their names from the `gguf` package's own map, not from ours, so that a wrong name in
our tables shows.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from transformers import PreTrainedModel

from tests.tiny import MERGES, SPECIALS, list_byte_letters

Arrays = dict[str, np.ndarray[Any, Any]]
_ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
    "gemma3_text": gguf.MODEL_ARCH.GEMMA3,
    "lfm2": gguf.MODEL_ARCH.LFM2,
}


def write_gguf(model: PreTrainedModel, path: Path) -> Path:
    """Write the float32 model to `path`: hyperparameters, tensors and a tokenizer."""
    config = model.config
    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(str(path), gguf.MODEL_ARCH_NAMES[architecture])
    add_tokenizer(writer, config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    _EXTRAS.get(config.model_type, _add_plain)(writer, config)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, array in _convert(model).items():
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(found or name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    """Write a byte-level tokenizer of `size` tokens, so that llama.cpp can run the file."""
    tokens = [*SPECIALS, *list_byte_letters(), *(merge.replace(" ", "") for merge in MERGES)]
    unused = [f"[unused {index}]" for index in range(size - len(tokens))]
    kinds = gguf.TokenType
    normal = [kinds.NORMAL] * (len(tokens) - len(SPECIALS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*tokens, *unused])
    writer.add_token_types([kinds.CONTROL] * len(SPECIALS) + normal + [kinds.UNUSED] * len(unused))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(2)


def _add_plain(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
        if config.model_type == "llama":
            writer.add_rope_dimension_count(config.head_dim)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])


def _add_gemma3(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_sliding_window(config.sliding_window)
    if config.final_logit_softcapping:
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    rope = config.rope_parameters["full_attention"]
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _add_lfm2(writer: gguf.GGUFWriter, config: Any) -> None:
    kinds, kv_heads = config.layer_types, config.num_key_value_heads
    writer.add_head_count_kv([0 if kind == "conv" else kv_heads for kind in kinds])
    width = int(config.block_ffn_dim_multiplier * (2 * config.intermediate_size // 3))
    multiple = config.block_multiple_of
    writer.add_feed_forward_length(multiple * ((width + multiple - 1) // multiple))
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_shortconv_l_cache(config.conv_L_cache)


_EXTRAS: dict[str, Callable[[gguf.GGUFWriter, Any], None]] = {
    "gemma3_text": _add_gemma3,
    "lfm2": _add_lfm2,
}


def _convert(model: PreTrainedModel) -> Arrays:
    """Return the tensors under Hugging Face's names, in llama.cpp's layout."""
    config = model.config
    arrays: Arrays = {name: weight.numpy() for name, weight in model.state_dict().items()}
    if config.tie_word_embeddings:
        del arrays["lm_head.weight"]
    for name, array in arrays.items():
        if config.model_type == "gemma3_text" and name.endswith("norm.weight"):
            arrays[name] = array + 1
        if name.endswith("conv.conv.weight"):
            arrays[name] = array.squeeze(1)
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads
            if name.endswith("k_proj.weight"):
                heads = config.num_key_value_heads
            half = array.shape[0] // heads // 2
            arrays[name] = array.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(array.shape)
    rope = config.rope_parameters
    if rope.get("rope_type") == "llama3":
        arrays["rope_freqs.weight"] = _find_factors(rope, config.head_dim)
    return arrays


def _find_factors(rope: dict[str, float], head_width: int) -> np.ndarray[Any, Any]:
    """Return what llama.cpp's converter divides Llama 3's rotary frequencies by."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    context = rope["original_max_position_embeddings"]
    factors: list[float] = []
    for i in range(0, head_width, 2):
        length = 2 * np.pi * rope["rope_theta"] ** (i / head_width)
        if length < context / high:
            factors.append(1.0)
        elif length > context / low:
            factors.append(factor)
        else:
            smooth = (context / length - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)
