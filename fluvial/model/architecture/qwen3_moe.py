"""The qwen3_moe family: qwen3 with a mixture of experts, softmax routing, nothing shared."""

from fluvial.model.architecture.declaration import Declaration, Layer, declare_mlp
from fluvial.model.architecture.expert import (
    EXPERT_KEYS,
    declare_experts,
    list_sparse_layers,
    name_experts,
    refuse_extra_layers,
)
from fluvial.model.architecture.family import Family
from fluvial.model.architecture.field import Fields
from fluvial.model.architecture.llama import (
    declare_decoder,
    declare_decoder_attention,
    read_layers,
)
from fluvial.model.architecture.name import CONFIG


def declare(fields: Fields) -> Declaration:
    """Declare a decoder with experts in all layers, or in those that config.json says."""
    fields.refuse("attention_bias")
    refuse_extra_layers(fields)
    window = fields.count("window") if fields.flag("windowed") else None
    mixer = declare_decoder_attention(fields, head_norm=True, window=window)
    # llama.cpp always divides by the sum in this family; transformers says it in the config.
    normalise = fields.in_gguf or fields.flag("normalise")
    experts = declare_experts(fields, score="softmax", normalise=normalise)
    sparse = Layer(mixer=mixer, mlp=experts)
    kinds = list_sparse_layers(fields, read_layers(fields))
    if all(kinds):
        return declare_decoder(fields, (sparse,) * len(kinds))
    mlp = declare_mlp(width=fields.count("width"), inner=fields.count("mlp_width"))
    dense = Layer(mixer=mixer, mlp=mlp)
    return declare_decoder(fields, tuple(sparse if kind else dense for kind in kinds))


FAMILY = Family(
    gguf="qwen3moe",
    config="qwen3_moe",
    declare=declare,
    keys={**EXPERT_KEYS, "windowed": (None, "use_sliding_window")},
    config_names=CONFIG.extend(name_experts("mlp.experts")),
)
