"""The llama family (SmolLM2, Llama 3), and the decoder that qwen2 and qwen3 vary."""

from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    Layer,
    declare_attention,
    declare_mlp,
)
from fluvial.model.architecture.family import Family
from fluvial.model.architecture.field import MAX_HEAD_WIDTH, MAX_HEADS, MAX_LAYERS, Fields
from fluvial.model.architecture.name import GGUF, separate_halves
from fluvial.model.architecture.rope import declare_rotary

SLIDING, FULL = "sliding_attention", "full_attention"


def declare(fields: Fields, *, qkv_bias: bool = False, head_norm: bool = False) -> Declaration:
    """Declare a decoder whose layers differ at most in their windows."""
    fields.refuse("attention_bias", "mlp_bias")
    fields.choice("activation", ("silu",), default="silu")
    width = fields.count("width")
    mlp = declare_mlp(width=width, inner=fields.count("mlp_width"))
    windows = list_windows(fields)
    attention = {
        window: declare_decoder_attention(
            fields, qkv_bias=qkv_bias, head_norm=head_norm, window=window
        )
        for window in set(windows)
    }
    return declare_decoder(
        fields, tuple(Layer(mixer=attention[window], mlp=mlp) for window in windows)
    )


def declare_decoder(
    fields: Fields, layers: tuple[Layer, ...], *, embedding_scale: float = 1.0
) -> Declaration:
    """Declare the whole around a family's layers."""
    return Declaration(
        family=fields.family,
        vocab_size=fields.vocab_size,
        width=fields.count("width"),
        norm_epsilon=fields.number("norm_epsilon", at_most=1.0),
        context_tokens=fields.count("context_tokens"),
        tied_head=fields.tied_head,
        layers=layers,
        embedding_scale=embedding_scale,
    )


def declare_decoder_attention(
    fields: Fields,
    *,
    qkv_bias: bool = False,
    head_norm: bool = False,
    gate: bool = False,
    window: int | None = None,
) -> Attention:
    """Declare attention from the keys that most families share."""
    heads, kv_heads, head_width = read_heads(fields)
    return declare_attention(
        width=fields.count("width"),
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=declare_rotary(fields, width=head_width),
        qkv_bias=qkv_bias,
        gate=gate,
        window=window,
        head_norm=head_norm,
    )


def read_heads(
    fields: Fields, *, head_width: int | None = None, kv_heads: int | None = None
) -> tuple[int, int, int]:
    """Return heads, key heads and a head's width.

    `kv_heads` are those of a layer where layers differ, `head_width` is for files without one.
    """
    heads = fields.count("heads", at_most=MAX_HEADS)
    if kv_heads is None:
        kv_heads = fields.count("kv_heads", default=heads, at_most=MAX_HEADS)
    width = head_width or max(1, fields.count("width") // heads)
    width = fields.count("head_width", default=width, at_most=MAX_HEAD_WIDTH)
    if width > MAX_HEAD_WIDTH:  # a width that follows from others has no bound of its own
        raise fields.error("width", f"at most {MAX_HEAD_WIDTH} for each of {heads} heads")
    for name in ("value_width", "rotary_width"):
        if fields.count(name, default=width) != width:
            raise fields.error(name, f"the width of a head, {width}")
    return heads, kv_heads, width


def read_layers(fields: Fields) -> int:
    """Return the number of layers."""
    return fields.count("layers", at_most=MAX_LAYERS)


def list_windows(fields: Fields) -> list[int | None]:
    """Return each layer's window; config.json may name some layers sliding."""
    num_layers = read_layers(fields)
    kinds = fields.choices("layer_types", (SLIDING, FULL), length=num_layers)
    if kinds is None:
        return [None] * num_layers
    return [fields.count("window") if kind == SLIDING else None for kind in kinds]


FAMILY = Family(
    gguf="llama",
    config="llama",
    declare=declare,
    gguf_names=GGUF.extend(
        {"q": separate_halves("attn_q.weight"), "k": separate_halves("attn_k.weight")}
    ),
)
