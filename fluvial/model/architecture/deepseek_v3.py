"""The deepseek_v3 family: latent attention, shared and routed experts, sigmoid routing by groups.

llama.cpp (architecture deepseek2) splits kv_up into keys, transposed, and values. It has other
models under the same name, with softmax routing or kv_up whole: those files are refused.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import (
    Declaration,
    Experts,
    Group,
    LatentAttention,
    Layer,
    Rotary,
    declare_mlp,
)
from fluvial.model.architecture.expert import (
    EXPERT_KEYS,
    declare_experts,
    name_experts,
    refuse_extra_layers,
)
from fluvial.model.architecture.family import Family
from fluvial.model.architecture.field import MAX_HEAD_WIDTH, MAX_HEADS, Fields
from fluvial.model.architecture.llama import declare_decoder, read_layers
from fluvial.model.architecture.name import CONFIG, GGUF, Values
from fluvial.model.architecture.rope import declare_rotary

SIGMOID = 2
"""GGUF's number for sigmoid routing (gguf.constants.ExpertGatingFuncType)."""


def declare(fields: Fields) -> Declaration:
    """Declare the decoder; its first layers have a plain MLP."""
    fields.refuse("attention_bias")
    refuse_extra_layers(fields)
    width, num_layers = fields.count("width"), read_layers(fields)
    mixer = _declare_latent(fields, width)
    num_dense = fields.count("first_dense", default=0, at_least=0)
    sparse = Layer(mixer=mixer, mlp=_declare_experts(fields, width))
    dense = Layer(mixer=mixer, mlp=declare_mlp(width=width, inner=fields.count("mlp_width")))
    layers = tuple(dense if index < num_dense else sparse for index in range(num_layers))
    return declare_decoder(fields, layers)


def _declare_experts(fields: Fields, width: int) -> Experts:
    if fields.in_gguf and fields.get("gating") != SIGMOID:
        raise fields.error("gating", f"{SIGMOID} (sigmoid, as in DeepSeek-V3)")
    shared = fields.count("shared_experts", default=1) * fields.count("expert_width")
    groups = fields.count("expert_groups", default=1)
    return declare_experts(
        fields,
        score="sigmoid",
        normalise=fields.flag("normalise", default=not fields.in_gguf),
        bias=True,
        groups=groups,
        active_groups=fields.count("active_groups", default=groups),
        scale=fields.number("expert_scale", default=1.0),
        shared=declare_mlp(width=width, inner=shared, prefix="shared_"),
    )


def _declare_latent(fields: Fields, width: int) -> LatentAttention:
    heads = fields.count("heads", at_most=MAX_HEADS)
    if not fields.in_gguf and fields.count("kv_heads", default=heads) != heads:
        raise fields.error("kv_heads", f"the number of heads, {heads}")
    nope_width, rotary_width = _read_key_widths(fields)
    value_width = fields.count("value_head_width", at_most=MAX_HEAD_WIDTH)
    kv_width, outputs = fields.count("kv_width"), heads * (nope_width + rotary_width)
    has_down = fields.get("q_width") is not None
    q_width = fields.count("q_width") if has_down else width
    q_down = Group(name="q_down", inputs=width, parts=(("q_down", q_width),))
    rotary, factor = _declare_rotary(fields, width=rotary_width, start=nope_width)
    return LatentAttention(
        heads=heads,
        nope_width=nope_width,
        value_width=value_width,
        kv_width=kv_width,
        rotary=rotary,
        scale=factor * (nope_width + rotary_width) ** -0.5,
        q_down=q_down if has_down else None,
        q=Group(name="q", inputs=q_width, parts=(("q_up" if has_down else "q", outputs),)),
        kv_down=Group(name="kv_down", inputs=width, parts=(("kv_down", kv_width + rotary_width),)),
        o=Group(name="o", inputs=heads * value_width, parts=(("o", width),)),
    )


def _read_key_widths(fields: Fields) -> tuple[int, int]:
    """Return the widths of a key without and with positions."""
    turned = fields.count("turned_width", at_most=MAX_HEAD_WIDTH)
    if not fields.in_gguf:
        return fields.count("nope_width", at_most=MAX_HEAD_WIDTH), turned
    both = fields.count("key_width", at_least=turned + 1, at_most=MAX_HEAD_WIDTH)
    return both - turned, turned


def _declare_rotary(fields: Fields, *, width: int, start: int) -> tuple[Rotary, float]:
    """Return the rotary positions and what the scores are multiplied by beside them."""
    if width % 2:
        raise fields.error("turned_width", "an even number")
    interleaved = fields.flag("interleaved", default=True)
    rotary = declare_rotary(fields, width=width, start=start, interleaved=interleaved)
    if not fields.in_gguf:
        rope = fields.inside("rope_parameters") or fields.inside("rope_scaling")
        return rotary, _read_factor(fields.enter(rope, prefix="rope_parameters."))
    if fields.get("scaling") in (None, "none"):
        return rotary, 1.0
    # GGUF can only say what DeepSeek's models have, mscale = mscale_all_dim, and says it by the
    # tenth: the magnitudes of q and k are 1, the scores are multiplied instead.
    growth = 1.0 + fields.number("score_growth") * math.log(fields.number("scaling_factor"))
    return replace(rotary, magnitude=1.0), growth**2


def _read_factor(rope: Fields) -> float:
    kind = rope.get("rope_type") or rope.get("type") or "default"
    of_all = rope.find_number("mscale_all_dim")
    if kind == "default" or of_all is None:
        return 1.0
    factor = rope.number("factor")
    return (0.1 * of_all * math.log(factor) + 1.0) ** 2 if factor > 1 else 1.0


def _join_kv(layer: Layer | None, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Make kv_up of llama.cpp's attn_k_b [heads, kv, nope] and attn_v_b [heads, value, kv]."""
    keys, values = arrays
    joined = np.concatenate([keys.swapaxes(-1, -2), values], axis=-2)
    return joined.reshape(-1, joined.shape[-1])


FAMILY = Family(
    gguf="deepseek2",
    config="deepseek_v3",
    declare=declare,
    keys={
        **EXPERT_KEYS,
        "experts": ("expert_count", "n_routed_experts"),
        "shared_experts": ("expert_shared_count", "n_shared_experts"),
        "gating": ("expert_gating_func", None),
        "expert_groups": ("expert_group_count", "n_group"),
        "active_groups": ("expert_group_used_count", "topk_group"),
        "first_dense": ("leading_dense_block_count", "first_k_dense_replace"),
        "q_width": ("attention.q_lora_rank", "q_lora_rank"),
        "kv_width": ("attention.kv_lora_rank", "kv_lora_rank"),
        "key_width": ("attention.key_length_mla", None),
        "nope_width": (None, "qk_nope_head_dim"),
        "turned_width": ("rope.dimension_count", "qk_rope_head_dim"),
        "value_head_width": ("attention.value_length_mla", "v_head_dim"),
        "interleaved": (None, "rope_interleave"),
        "scaling": ("rope.scaling.type", None),
        "scaling_factor": ("rope.scaling.factor", None),
        "score_growth": ("rope.scaling.yarn_log_multiplier", None),
    },
    gguf_names=GGUF.extend(
        {
            "q_down": "attn_q_a.weight",
            "q_down_norm": "attn_q_a_norm.weight",
            "q_up": "attn_q_b.weight",
            "kv_down": "attn_kv_a_mqa.weight",
            "kv_down_norm": "attn_kv_a_norm.weight",
            "kv_up": Values(("attn_k_b.weight", "attn_v_b.weight"), _join_kv),
        }
    ),
    config_names=CONFIG.extend(
        {
            "q_down": "self_attn.q_a_proj.weight",
            "q_down_norm": "self_attn.q_a_layernorm.weight",
            "q_up": "self_attn.q_b_proj.weight",
            "kv_down": "self_attn.kv_a_proj_with_mqa.weight",
            "kv_down_norm": "self_attn.kv_a_layernorm.weight",
            "kv_up": "self_attn.kv_b_proj.weight",
            **name_experts("mlp.experts"),
            "router_bias": "mlp.gate.e_score_correction_bias",
            "shared_gate": "mlp.shared_experts.gate_proj.weight",
            "shared_up": "mlp.shared_experts.up_proj.weight",
            "shared_down": "mlp.shared_experts.down_proj.weight",
        }
    ),
)
