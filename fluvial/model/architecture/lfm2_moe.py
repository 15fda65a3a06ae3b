"""The lfm2_moe family: lfm2 with a mixture of experts after the first layers, sigmoid routing."""

from dataclasses import replace

from fluvial.model.architecture import lfm2
from fluvial.model.architecture.declaration import Declaration, declare_mlp
from fluvial.model.architecture.expert import EXPERT_KEYS, declare_experts, name_experts
from fluvial.model.architecture.family import Family
from fluvial.model.architecture.field import Fields


def declare(fields: Fields) -> Declaration:
    """Declare lfm2's mixers, with a plain MLP in the first layers and experts in the others."""
    plain = lfm2.declare(fields)
    num_dense = fields.count("first_dense", default=0, at_least=0)
    mlp = declare_mlp(width=plain.width, inner=fields.count("mlp_width"))
    experts = declare_experts(
        fields,
        score="sigmoid",
        normalise=fields.flag("normalise", default=True),
        bias=fields.flag("router_bias", default=True),
        scale=fields.number("expert_scale", default=1.0),
    )
    layers = tuple(
        replace(layer, mlp=mlp if index < num_dense else experts)
        for index, layer in enumerate(plain.layers)
    )
    return replace(plain, layers=layers)


FAMILY = Family(
    gguf="lfm2moe",
    config="lfm2_moe",
    declare=declare,
    keys={
        **lfm2.FAMILY.keys,
        **{name: key for name, key in EXPERT_KEYS.items() if name not in lfm2.FAMILY.keys},
        "mlp_width": ("feed_forward_length", "intermediate_size"),
        "first_dense": ("leading_dense_block_count", "num_dense_layers"),
        "router_bias": (None, "use_expert_bias"),
    },
    gguf_names=lfm2.FAMILY.gguf_names,
    config_names=lfm2.FAMILY.config_names.extend(
        {
            "router": "feed_forward.gate.weight",
            "router_bias": "feed_forward.expert_bias",
            **name_experts("feed_forward.experts", gate="w1", up="w3", down="w2"),
        }
    ),
)
