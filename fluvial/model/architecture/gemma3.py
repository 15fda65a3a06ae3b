"""The gemma3 family, text only: GeGLU, norms on both sides, five sliding layers before a full one.

Sources: `transformers` modeling_gemma3.py; llama.cpp src/models/gemma3.cpp (GGUF names no scale of
the queries: it is the head's width but for the 27B model, known by its 62 layers).
"""

from dataclasses import replace

from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    Layer,
    Rotary,
    declare_attention,
    declare_mlp,
    rotate,
)
from fluvial.model.architecture.family import DECODER_KEYS, Family
from fluvial.model.architecture.field import Fields
from fluvial.model.architecture.llama import (
    FULL,
    SLIDING,
    declare_decoder,
    read_heads,
    read_layers,
)
from fluvial.model.architecture.name import CONFIG, GGUF, add_one
from fluvial.model.architecture.rope import MIN_THETA, declare_rotary, read_rotary

_GLOBAL_THETA, _LOCAL_THETA = 1_000_000.0, 10_000.0
_DEFAULT_HEAD_WIDTH, _DEFAULT_PATTERN = 256, 6
_LAYERS_OF_27B = 62


def declare(fields: Fields) -> Declaration:
    """Declare from either format."""
    fields.refuse("attention_bias", "bidirectional")
    fields.choice("activation", ("gelu_pytorch_tanh",), default="gelu_pytorch_tanh")
    if fields.find_number("attention_softcap") is not None:
        # No published model has one, and `transformers` takes the setting without applying it.
        raise fields.error("attention_softcap", "absent, as in every gemma3 model")
    width = fields.count("width")
    mlp = declare_mlp(width=width, inner=fields.count("mlp_width"), activation="gelu_tanh")
    window = fields.count("window")
    attention = {
        SLIDING: _declare_attention(fields, rotary=_declare_local(fields), window=window),
        FULL: _declare_attention(fields, rotary=_declare_global(fields), window=None),
    }
    layers = tuple(
        Layer(mixer=attention[kind], mlp=mlp, post_norms=True) for kind in _list_kinds(fields)
    )
    declaration = declare_decoder(fields, layers, embedding_scale=width**0.5)
    return replace(declaration, logit_softcap=fields.find_number("logit_softcap"))


def _declare_attention(fields: Fields, *, rotary: Rotary, window: int | None) -> Attention:
    heads, kv_heads, head_width = read_heads(fields, head_width=_DEFAULT_HEAD_WIDTH)
    scale_of = float(head_width)
    if fields.in_gguf and read_layers(fields) == _LAYERS_OF_27B:
        scale_of = float(fields.count("width") // heads)
    return declare_attention(
        width=fields.count("width"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=rotary,
        scale=fields.number("query_scale", default=scale_of) ** -0.5,
        window=window,
        head_norm=True,
    )


def _list_kinds(fields: Fields) -> list[str]:
    """Return each layer's kind of attention; every sixth is full unless the file says otherwise."""
    num_layers = read_layers(fields)
    kinds = fields.choices("layer_types", (SLIDING, FULL), length=num_layers)
    pattern = fields.count("window_pattern", default=_DEFAULT_PATTERN)
    return kinds or [FULL if (n + 1) % pattern == 0 else SLIDING for n in range(num_layers)]


def _declare_global(fields: Fields) -> Rotary:
    _, _, width = read_heads(fields, head_width=_DEFAULT_HEAD_WIDTH)
    if fields.in_gguf:
        return declare_rotary(fields, width=width, theta=_GLOBAL_THETA)
    rope = fields.inside("rope_parameters").get(FULL) or fields.inside("rope_scaling")
    theta = fields.number("rope_theta", default=_GLOBAL_THETA, at_least=MIN_THETA)
    return read_rotary(fields, rope, width=width, theta=theta)


def _declare_local(fields: Fields) -> Rotary:
    _, _, width = read_heads(fields, head_width=_DEFAULT_HEAD_WIDTH)
    theta = fields.number("local_rope_theta", default=_LOCAL_THETA, at_least=MIN_THETA)
    rope = fields.inside("rope_parameters").get(SLIDING)
    if rope is None:
        return rotate(width=width, theta=theta)
    return read_rotary(fields, rope, width=width, theta=theta)


FAMILY = Family(
    gguf="gemma3",
    config="gemma3_text",
    declare=declare,
    keys={
        **DECODER_KEYS,
        "activation": (None, "hidden_activation"),
        "bidirectional": (None, "use_bidirectional_attention"),
        "query_scale": (None, "query_pre_attn_scalar"),
        "local_rope_theta": ("rope.freq_base_swa", "rope_local_base_freq"),
        "window_pattern": ("attention.sliding_window_pattern", "sliding_window_pattern"),
        "attention_softcap": ("attn_logit_softcapping", "attn_logit_softcapping"),
        "logit_softcap": ("final_logit_softcapping", "final_logit_softcapping"),
    },
    gguf_names=GGUF.extend(
        {
            "attention_post_norm": "post_attention_norm.weight",
            "mlp_post_norm": "post_ffw_norm.weight",
        }
    ),
    config_names=CONFIG.extend(
        {
            "attention_norm": add_one("input_layernorm.weight"),
            "attention_post_norm": add_one("post_attention_layernorm.weight"),
            "mlp_norm": add_one("pre_feedforward_layernorm.weight"),
            "mlp_post_norm": add_one("post_feedforward_layernorm.weight"),
            "q_norm": add_one("self_attn.q_norm.weight"),
            "k_norm": add_one("self_attn.k_norm.weight"),
        },
        whole={"norm": add_one("model.norm.weight")},
    ),
)
