"""Read what families with a mixture of experts have in common."""

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import Experts, Layer, Mlp, Router
from fluvial.model.architecture.family import DECODER_KEYS, Keys
from fluvial.model.architecture.field import MAX_LAYERS, Fields
from fluvial.model.architecture.name import Rows, Sources, Stacked

MAX_EXPERTS = 4096

EXPERT_KEYS: Keys = {
    **DECODER_KEYS,
    "local_experts": (None, "num_local_experts"),
    "normalise": ("expert_weights_norm", "norm_topk_prob"),
    "expert_scale": ("expert_weights_scale", "routed_scaling_factor"),
    "dense_layers": (None, "mlp_only_layers"),
    "sparse_step": (None, "decoder_sparse_step"),
    "extra_layers": ("nextn_predict_layers", None),
}


def declare_experts(
    fields: Fields,
    *,
    score: Literal["softmax", "sigmoid"],
    normalise: bool,
    bias: bool = False,
    groups: int = 1,
    active_groups: int = 1,
    scale: float = 1.0,
    shared: Mlp | None = None,
    shared_switch: bool = False,
) -> Experts:
    """Declare a mixture whose sizes stand under the usual keys."""
    fields.choice("activation", ("silu",), default="silu")
    return Experts(
        count=_count_experts(fields),
        active=fields.count("active_experts", at_most=MAX_EXPERTS),
        width=fields.count("expert_width"),
        router=Router(
            score=score,
            normalise=normalise,
            bias=bias,
            groups=groups,
            active_groups=active_groups,
            scale=scale,
        ),
        shared=shared,
        shared_switch=shared_switch,
    )


def list_sparse_layers(fields: Fields, num_layers: int) -> list[bool]:
    """Say of each layer whether it has experts, as Qwen's config.json does; in GGUF, all have."""
    dense = fields.indices("dense_layers", at_most=MAX_LAYERS) or set[int]()
    step = fields.count("sparse_step", default=1)
    return [index not in dense and (index + 1) % step == 0 for index in range(num_layers)]


def refuse_extra_layers(fields: Fields) -> None:
    """Raise ModelError if the file counts layers for multi-token prediction among its blocks."""
    if fields.count("extra_layers", default=0, at_least=0):
        raise fields.error(
            "extra_layers", "0: layers that predict further tokens are not supported"
        )


def _count_experts(fields: Fields) -> int:
    """Read the number of experts: `transformers` 5 renamed it in some families."""
    renamed = fields.get("experts") is None and fields.get("local_experts") is not None
    return fields.count("local_experts" if renamed else "experts", at_most=MAX_EXPERTS)


def name_experts(
    before: str, *, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj"
) -> dict[str, Sources]:
    """Return the sources of experts in folders: one tensor each, or stacked by `transformers`."""
    return {
        "experts_gate": (Stacked(f"{before}.{{e}}.{gate}.weight"), _choose_half(before, 0)),
        "experts_up": (Stacked(f"{before}.{{e}}.{up}.weight"), _choose_half(before, 1)),
        "experts_down": (Stacked(f"{before}.{{e}}.{down}.weight"), f"{before}.down_proj"),
    }


def _choose_half(before: str, half: int) -> Rows:
    """Return the gates (0) or the ups (1) of `gate_up_proj` [count, 2 * width, inputs]."""

    def choose(layer: Layer) -> NDArray[np.int64]:
        experts = cast(Experts, layer.mlp)
        rows = np.arange(experts.count * 2 * experts.width, dtype=np.int64)
        return rows.reshape(experts.count, 2, -1)[:, half].reshape(-1)

    return Rows(f"{before}.gate_up_proj", choose)
