"""The llama family (SmolLM2, Llama 3 without long-context rope scaling), GGUF and Hugging Face."""

from fluvial.model.architecture.declaration import Declaration, declare_layer
from fluvial.model.architecture.field import Fields

GGUF_NAME = "llama"
CONFIG_NAME = "llama"
QKV_BIAS = False
# GGUF stores q and k with rows interleaved per head; Hugging Face keeps the two halves apart.
INTERLEAVED_IN_GGUF = True


def declare_from_gguf(fields: Fields) -> Declaration:
    """Declare from GGUF metadata under the prefix of this family."""
    return _declare(
        fields,
        width=fields.count("embedding_length"),
        heads=fields.count("attention.head_count"),
        kv_heads=fields.count("attention.head_count_kv", fallback="attention.head_count"),
        head_width=fields.count("attention.key_length", default=0),
        mlp_width=fields.count("feed_forward_length"),
        num_layers=fields.count("block_count"),
        theta=fields.number("rope.freq_base", default=10_000.0),
        epsilon=fields.number("attention.layer_norm_rms_epsilon"),
        context_tokens=fields.count("context_length"),
    )


def declare_from_config(fields: Fields) -> Declaration:
    """Declare from a Hugging Face config.json."""
    return _declare(
        fields,
        width=fields.count("hidden_size"),
        heads=fields.count("num_attention_heads"),
        kv_heads=fields.count("num_key_value_heads", fallback="num_attention_heads"),
        head_width=fields.count("head_dim", default=0),
        mlp_width=fields.count("intermediate_size"),
        num_layers=fields.count("num_hidden_layers"),
        theta=fields.rope_theta(),
        epsilon=fields.number("rms_norm_eps"),
        context_tokens=fields.count("max_position_embeddings"),
    )


def _declare(
    fields: Fields,
    *,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    num_layers: int,
    theta: float,
    epsilon: float,
    context_tokens: int,
) -> Declaration:
    layer = declare_layer(
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width or width // heads,
        mlp_width=mlp_width,
        rope_theta=theta,
        qkv_bias=fields.qkv_bias,
    )
    return Declaration(
        family=fields.family,
        vocab_size=fields.vocab_size,
        width=width,
        norm_epsilon=epsilon,
        context_tokens=context_tokens,
        tied_head=fields.tied_head,
        layers=(layer,) * num_layers,
    )
