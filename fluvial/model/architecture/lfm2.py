"""The lfm2 family (Liquid Foundation Models 2): gated short convolutions between attention layers.

Sources: `transformers` modeling_lfm2.py; llama.cpp src/models/lfm2.cpp (a layer with no key heads
is a convolution; the final norm goes by the name of an embedding's).
"""

from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    Group,
    Layer,
    ShortConv,
    declare_attention,
    declare_mlp,
)
from fluvial.model.architecture.family import DECODER_KEYS, Family
from fluvial.model.architecture.field import MAX_HEADS, MAX_LAYERS, Fields
from fluvial.model.architecture.llama import FULL, declare_decoder, read_heads, read_layers
from fluvial.model.architecture.name import CONFIG, GGUF
from fluvial.model.architecture.rope import declare_rotary

CONV = "conv"
_THETA = 1_000_000.0


def declare(fields: Fields) -> Declaration:
    """Declare from either format."""
    fields.refuse("conv_bias")
    mlp = declare_mlp(width=fields.count("width"), inner=_read_mlp_width(fields))
    by_heads = _list_kv_heads(fields)
    mixers: dict[int, Attention | ShortConv] = {
        kv_heads: _declare_attention(fields, kv_heads) for kv_heads in set(by_heads) - {0}
    }
    mixers[0] = _declare_conv(fields)
    return declare_decoder(
        fields, tuple(Layer(mixer=mixers[kv_heads], mlp=mlp) for kv_heads in by_heads)
    )


def _declare_conv(fields: Fields) -> ShortConv:
    width = fields.count("width")
    return ShortConv(
        width=width,
        taps=fields.count("taps"),
        conv_in=Group(name="conv_in", inputs=width, parts=(("conv_in", 3 * width),)),
        conv_out=Group(name="conv_out", inputs=width, parts=(("conv_out", width),)),
    )


def _declare_attention(fields: Fields, kv_heads: int) -> Attention:
    heads, _, head_width = read_heads(fields, kv_heads=kv_heads)
    return declare_attention(
        width=fields.count("width"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=declare_rotary(fields, width=head_width, theta=_THETA),
        window=fields.count("window") if fields.find_number("window") else None,
        head_norm=True,
    )


def _list_kv_heads(fields: Fields) -> list[int]:
    """Return each layer's number of key heads; 0 for a convolution."""
    num_layers = read_layers(fields)
    if fields.in_gguf:
        return fields.counts("kv_heads", num_layers, at_most=MAX_HEADS)
    kv_heads = fields.count("kv_heads", at_most=MAX_HEADS)
    kinds = fields.choices("layer_types", (CONV, FULL), length=num_layers)
    if kinds is None:
        full = fields.indices("attention_layers", at_most=MAX_LAYERS)
        kinds = [FULL if full is None or n in full else CONV for n in range(num_layers)]
    return [kv_heads if kind == FULL else 0 for kind in kinds]


def _read_mlp_width(fields: Fields) -> int:
    """Return the width inside the MLP; config.json may hold it before its adjustment."""
    width = fields.count("mlp_width", default=0) or fields.count("intermediate")
    if fields.in_gguf or not fields.flag("adjust_width", default=True):
        return width
    width = 2 * width // 3
    multiplier = fields.find_number("width_multiplier")
    if multiplier is None:
        return width
    multiple = fields.count("width_multiple", default=256)
    return -(-int(multiplier * width) // multiple) * multiple


FAMILY = Family(
    gguf="lfm2",
    config="lfm2",
    declare=declare,
    keys={
        **DECODER_KEYS,
        "norm_epsilon": ("attention.layer_norm_rms_epsilon", "norm_eps"),
        "mlp_width": ("feed_forward_length", "block_ff_dim"),
        "intermediate": (None, "intermediate_size"),
        "window": ("attention.sliding_window", None),
        "taps": ("shortconv.l_cache", "conv_L_cache"),
        "conv_bias": (None, "conv_bias"),
        "attention_layers": (None, "full_attn_idxs"),
        "adjust_width": (None, "block_auto_adjust_ff_dim"),
        "width_multiplier": (None, "block_ffn_dim_multiplier"),
        "width_multiple": (None, "block_multiple_of"),
    },
    gguf_names=GGUF.extend(
        {
            "conv_in": "shortconv.in_proj.weight",
            "conv": "shortconv.conv.weight",
            "conv_out": "shortconv.out_proj.weight",
        },
        whole={"norm": "token_embd_norm.weight"},
    ),
    config_names=CONFIG.extend(
        {
            "attention_norm": "operator_norm.weight",
            "mlp_norm": "ffn_norm.weight",
            "conv_in": "conv.in_proj.weight",
            "conv": "conv.conv.weight",
            "conv_out": "conv.out_proj.weight",
            "q_norm": "self_attn.q_layernorm.weight",
            "k_norm": "self_attn.k_layernorm.weight",
            "o": "self_attn.out_proj.weight",
            "gate": "feed_forward.w1.weight",
            "up": "feed_forward.w3.weight",
            "down": "feed_forward.w2.weight",
        },
        whole={"norm": "model.embedding_norm.weight"},
    ),
)
