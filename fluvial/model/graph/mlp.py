"""Write the part of a layer that thinks about one token: a gated MLP, or experts."""

from typing import Any

import numpy as np

from fluvial.model.architecture.declaration import ActivationKind, Experts, Mlp
from fluvial.model.graph.writer import DOMAIN, GraphWriter, Unread
from fluvial.model.packing import Packed, pack_stack

_KINDS: dict[ActivationKind, int] = {"silu": 0, "gelu_tanh": 1}


def write_mlp(writer: GraphWriter, index: int, mlp: Mlp | Experts, unread: Unread) -> str:
    """Add the MLP of layer `index` and return what it adds to the residual."""
    at = f"layers.{index}"
    if isinstance(mlp, Mlp):
        return _write_gated(writer, at, mlp, unread)
    x = writer.take(unread)
    routed = _write_experts(writer, at, mlp, x)
    if mlp.shared is None:
        return routed
    shared = _write_gated(writer, at, mlp.shared, x)
    if mlp.shared_switch:
        product = writer.product(f"{at}.shared_switch", writer.pack(f"{at}.shared_switch"), x)
        switch = writer.node("Sigmoid", [product], f"{at}.shared_open")
        shared = writer.node("Mul", [shared, switch], f"{at}.shared_part")
    return writer.node("Add", [routed, shared], f"{at}.experts_sum")


def _write_gated(writer: GraphWriter, at: str, mlp: Mlp, x: str | Unread) -> str:
    return writer.linear(
        at,
        mlp.down,
        writer.linear(at, mlp.gate_up, x),
        activation=_KINDS[mlp.activation],
        gain=writer.layout.gain_of[f"{at}.gain"],
    )


def _write_experts(writer: GraphWriter, at: str, experts: Experts, x: str) -> str:
    router = experts.router
    # The choice of experts hangs on small differences: the router stays in float32.
    raw = writer.checkpoint.weights[f"{at}.router"]
    scores = writer.product(f"{at}.router", pack_stack([raw], whole=True)[0], x)
    bias = writer.vector(f"{at}.router_bias") if router.bias else ""
    stacks = [("gate_up", ("experts_gate", "experts_up")), ("down", ("experts_down",))]
    inputs, attributes = [x, scores, bias], _describe_router(experts)
    attributes["in_width"] = writer.checkpoint.declaration.width
    for name, parts in stacks:
        raw = [writer.checkpoint.weights[f"{at}.{part}"] for part in parts]
        packed = pack_stack(raw, whole=writer.whole)
        writer.losses.add_stack(raw, packed)
        data = np.concatenate([each.data for each in packed])
        inputs.append(writer.weight(f"{at}.experts_{name}.data", data))
        attributes |= _describe_stack(name, packed[0])
    return writer.node("Experts", inputs, f"{at}.routed", domain=DOMAIN, **attributes)


def _describe_router(experts: Experts) -> dict[str, Any]:
    router = experts.router
    return {
        "count": experts.count,
        "active": experts.active,
        "width": experts.width,
        "score": int(router.score == "sigmoid"),
        "normalise": int(router.normalise),
        "groups": router.groups,
        "active_groups": router.active_groups,
        "scale": router.scale,
        "activation": _KINDS[experts.activation],
    }


def _describe_stack(name: str, packed: Packed) -> dict[str, Any]:
    return {
        f"{name}_bits": packed.bits,
        f"{name}_has_minimum": int(packed.has_minimum),
        f"{name}_scale_bytes": packed.scale_bytes,
    }
