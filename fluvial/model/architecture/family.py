"""What a family is: its names in the two formats, its keys, and how it declares its blocks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fluvial.model.architecture.declaration import Declaration
from fluvial.model.architecture.field import Fields
from fluvial.model.architecture.name import CONFIG, GGUF, Names

Keys = Mapping[str, tuple[str | None, str | None]]
"""Our name of a hyperparameter: its key in GGUF, after the family's prefix, and in config.json."""

DECODER_KEYS: Keys = {
    "width": ("embedding_length", "hidden_size"),
    "layers": ("block_count", "num_hidden_layers"),
    "heads": ("attention.head_count", "num_attention_heads"),
    "kv_heads": ("attention.head_count_kv", "num_key_value_heads"),
    "head_width": ("attention.key_length", "head_dim"),
    "value_width": ("attention.value_length", None),
    "rotary_width": ("rope.dimension_count", None),
    "mlp_width": ("feed_forward_length", "intermediate_size"),
    "norm_epsilon": ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
    "context_tokens": ("context_length", "max_position_embeddings"),
    "rope_theta": ("rope.freq_base", "rope_theta"),
    "attention_bias": (None, "attention_bias"),
    "mlp_bias": (None, "mlp_bias"),
    "activation": (None, "hidden_act"),
    "rope_parameters": (None, "rope_parameters"),
    "rope_scaling": (None, "rope_scaling"),
    "window": ("attention.sliding_window", "sliding_window"),
    "layer_types": (None, "layer_types"),
    "experts": ("expert_count", "num_experts"),
    "active_experts": ("expert_used_count", "num_experts_per_tok"),
    "expert_width": ("expert_feed_forward_length", "moe_intermediate_size"),
}
"""Keys that most families share; a family adds its own."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family of models. `gguf` and `config` are its names (general.architecture, model_type).

    `declare` reads every hyperparameter through `Fields`, which checks its bounds.
    """

    gguf: str
    config: str
    declare: Callable[[Fields], Declaration]
    keys: Keys = field(default_factory=lambda: DECODER_KEYS)
    gguf_names: Names = GGUF
    config_names: Names = CONFIG
