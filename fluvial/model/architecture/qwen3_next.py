"""The qwen3_next family: gated DeltaNet layers, every fourth full attention, experts in all.

In config.json folders the DeltaNet's projections are interleaved by key head, q stands beside its
gate in each head, and norms hold their weight less one (but for the one inside the DeltaNet).
llama.cpp's converter undoes the first but for b and a, keeps the second, and undoes the third.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    GatedDelta,
    Group,
    Layer,
    declare_attention,
    declare_mlp,
)
from fluvial.model.architecture.expert import (
    EXPERT_KEYS,
    declare_experts,
    list_sparse_layers,
    name_experts,
    refuse_extra_layers,
)
from fluvial.model.architecture.family import Family
from fluvial.model.architecture.field import MAX_HEAD_WIDTH, MAX_HEADS, Fields
from fluvial.model.architecture.interleave import choose_delta, choose_q
from fluvial.model.architecture.llama import declare_decoder, read_heads, read_layers
from fluvial.model.architecture.name import CONFIG, GGUF, Values, add_one
from fluvial.model.architecture.rope import declare_rotary

LINEAR, FULL = "linear_attention", "full_attention"
DEFAULT_INTERVAL = 4
DEFAULT_ROTARY_SHARE = 0.25


def declare(fields: Fields) -> Declaration:
    """Declare the hybrid decoder."""
    fields.refuse("attention_bias")
    refuse_extra_layers(fields)
    width, num_layers = fields.count("width"), read_layers(fields)
    mixers = {LINEAR: _declare_delta(fields, width), FULL: _declare_attention(fields, width)}
    shared = declare_mlp(width=width, inner=fields.count("shared_width"), prefix="shared_")
    experts = declare_experts(
        fields,
        score="softmax",
        # llama.cpp always divides by the sum in this family.
        normalise=fields.in_gguf or fields.flag("normalise", default=True),
        shared=shared,
        shared_switch=True,
    )
    kinds = _list_kinds(fields, num_layers)
    sparse = list_sparse_layers(fields, num_layers)
    layers = tuple(
        Layer(
            mixer=mixers[kind],
            mlp=experts if each else declare_mlp(width=width, inner=fields.count("mlp_width")),
        )
        for kind, each in zip(kinds, sparse, strict=True)
    )
    return declare_decoder(fields, layers)


def _list_kinds(fields: Fields, num_layers: int) -> list[str]:
    kinds = fields.choices("layer_types", (LINEAR, FULL), length=num_layers)
    if kinds is not None:
        return kinds
    interval = fields.count("interval", default=DEFAULT_INTERVAL)
    return [LINEAR if (index + 1) % interval else FULL for index in range(num_layers)]


def _declare_attention(fields: Fields, width: int) -> Attention:
    heads, kv_heads, head_width = read_heads(fields)
    return declare_attention(
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=declare_rotary(fields, width=_read_turned_width(fields, head_width)),
        gate=True,
        head_norm=True,
    )


def _read_turned_width(fields: Fields, head_width: int) -> int:
    """Return how many features of a head turn."""
    if fields.in_gguf:
        turned = fields.count("turned_width", at_most=head_width)
    else:
        rope = fields.inside("rope_parameters") or fields.inside("rope_scaling")
        share = fields.number("rotary_share", default=DEFAULT_ROTARY_SHARE, at_most=1.0)
        inner = fields.enter(rope, prefix="rope_parameters.")
        turned = int(head_width * inner.number("partial_rotary_factor", default=share, at_most=1.0))
    if turned < 2 or turned % 2:
        raise ModelError(
            f"{turned} of a head's {head_width} features turn; it must be an even number"
        )
    return turned


def _declare_delta(fields: Fields, width: int) -> GatedDelta:
    key_heads = fields.count("delta_key_heads", at_most=MAX_HEADS)
    value_heads = fields.count("delta_value_heads", at_most=MAX_HEADS)
    key_width = fields.count("delta_key_width", at_most=MAX_HEAD_WIDTH)
    value_width = _read_value_width(fields, value_heads)
    keys, values = key_heads * key_width, value_heads * value_width
    parts = (
        ("delta_qkv", 2 * keys + values),
        ("delta_z", values),
        ("delta_b", value_heads),
        ("delta_a", value_heads),
    )
    return GatedDelta(
        key_heads=key_heads,
        value_heads=value_heads,
        key_width=key_width,
        value_width=value_width,
        taps=fields.count("delta_taps"),
        delta_in=Group(name="delta_in", inputs=width, parts=parts),
        delta_out=Group(name="delta_out", inputs=values, parts=(("delta_out", width),)),
    )


def _read_value_width(fields: Fields, value_heads: int) -> int:
    if not fields.in_gguf:
        return fields.count("delta_value_width", at_most=MAX_HEAD_WIDTH)
    values = fields.count("delta_values", at_most=MAX_HEADS * MAX_HEAD_WIDTH)
    if values % value_heads:
        raise fields.error("delta_values", f"a multiple of the {value_heads} value heads")
    return values // value_heads


def _take_log(_: Layer | None, arrays: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Undo llama.cpp's -exp(A_log)."""
    if not (arrays[0] < 0).all():
        raise ModelError("the tensor 'ssm_a' holds values that are not negative")
    return np.log(-arrays[0])


_GGUF_DELTA = choose_delta("ssm_in.weight", "ssm_ba.weight")

FAMILY = Family(
    gguf="qwen3next",
    config="qwen3_next",
    declare=declare,
    keys={
        **EXPERT_KEYS,
        # Read as `turned_width`: here only a part of a head turns.
        "rotary_width": (None, None),
        "turned_width": ("rope.dimension_count", None),
        "rotary_share": (None, "partial_rotary_factor"),
        "interval": ("full_attention_interval", "full_attention_interval"),
        "shared_width": ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
        "delta_key_heads": ("ssm.group_count", "linear_num_key_heads"),
        "delta_value_heads": ("ssm.time_step_rank", "linear_num_value_heads"),
        "delta_key_width": ("ssm.state_size", "linear_key_head_dim"),
        "delta_value_width": (None, "linear_value_head_dim"),
        "delta_values": ("ssm.inner_size", None),
        "delta_taps": ("ssm.conv_kernel", "linear_conv_kernel_dim"),
    },
    gguf_names=GGUF.extend(
        {
            "mlp_norm": "post_attention_norm.weight",
            "q": choose_q("attn_q.weight", gate=False),
            "q_gate": choose_q("attn_q.weight", gate=True),
            # Older files keep the interleaved projection under the name ssm_in.
            "delta_qkv": ("attn_qkv.weight", _GGUF_DELTA["delta_qkv"]),
            "delta_z": ("attn_gate.weight", _GGUF_DELTA["delta_z"]),
            "delta_b": _GGUF_DELTA["delta_b"],
            "delta_a": _GGUF_DELTA["delta_a"],
            "conv": "ssm_conv1d.weight",
            "decay": Values(("ssm_a",), _take_log),
            "decay_bias": "ssm_dt.bias",
            "delta_norm": "ssm_norm.weight",
            "delta_out": "ssm_out.weight",
        }
    ),
    config_names=CONFIG.extend(
        {
            "attention_norm": add_one("input_layernorm.weight"),
            "mlp_norm": add_one("post_attention_layernorm.weight"),
            "q_norm": add_one("self_attn.q_norm.weight"),
            "k_norm": add_one("self_attn.k_norm.weight"),
            "q": choose_q("self_attn.q_proj.weight", gate=False),
            "q_gate": choose_q("self_attn.q_proj.weight", gate=True),
            **choose_delta("linear_attn.in_proj_qkvz.weight", "linear_attn.in_proj_ba.weight"),
            "conv": "linear_attn.conv1d.weight",
            "decay": "linear_attn.A_log",
            "decay_bias": "linear_attn.dt_bias",
            "delta_norm": "linear_attn.norm.weight",
            "delta_out": "linear_attn.out_proj.weight",
            **name_experts("mlp.experts"),
            "shared_gate": "mlp.shared_expert.gate_proj.weight",
            "shared_up": "mlp.shared_expert.up_proj.weight",
            "shared_down": "mlp.shared_expert.down_proj.weight",
            "shared_switch": "mlp.shared_expert_gate.weight",
        },
        whole={"norm": add_one("model.norm.weight")},
    ),
)
