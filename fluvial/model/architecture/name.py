"""How files name the weights that a Declaration names, and how those are made where files differ.

A family has a Names for each of the two formats. Most weights stand in the file as they are
(`Source` is the tensor's name); some are rows of a larger tensor, some many tensors stacked, some
the file's values put through a formula. `{e}` in a name counts experts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    Experts,
    GatedDelta,
    LatentAttention,
    Layer,
    Mixer,
    Mlp,
    ShortConv,
)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """Some rows of a tensor, in a given order; quantised blocks stay what they are.

    `choose` gets the Layer and returns the rows' indices, int64 [rows]. Rows are counted over all
    axes but the last.
    """

    name: str
    choose: Callable[[Any], NDArray[np.int64]]


@dataclass(frozen=True)
class Stacked:
    """One tensor for each expert, one after another; `{e}` in the name is the expert's number."""

    name: str


@dataclass(frozen=True)
class Values:
    """What a formula makes of whole tensors, float32.

    `compute` gets the Layer (None where the weight is none of a layer's) and the tensors.
    """

    names: tuple[str, ...]
    compute: Callable[[Any, Sequence[NDArray[np.float32]]], NDArray[np.float32]]


Source = str | Rows | Stacked | Values
Sources = Source | tuple[Source, ...]
"""One source, or several of which the first that the file has counts."""


@dataclass(frozen=True, kw_only=True)
class Names:
    """How one file format names one family's weights; `layer` stands before those of layer {n}."""

    whole: Mapping[str, Sources]
    layer: str
    parts: Mapping[str, Sources] = field(default_factory=dict[str, Sources])

    def extend(
        self, parts: Mapping[str, Sources], *, whole: Mapping[str, Sources] | None = None
    ) -> "Names":
        """Return these names with some added or put in others' place."""
        return replace(self, whole={**self.whole, **(whole or {})}, parts={**self.parts, **parts})

    def find(self, name: str) -> tuple[str, tuple[Source, ...]]:
        """Return what stands before the file's names of our weight `name`, and its sources."""
        if not name.startswith("layers."):
            return "", _tuple(self.whole[name])
        _, index, part = name.split(".", 2)
        return self.layer.format(n=index), _tuple(self.parts[part])


def _tuple(sources: Sources) -> tuple[Source, ...]:
    return sources if isinstance(sources, tuple) else (sources,)


def add_one(name: str) -> Values:
    """Return the source of a norm whose file holds its weight less one."""
    return Values((name,), lambda _, arrays: arrays[0] + np.float32(1))


def separate_halves(name: str) -> Rows:
    """Return the source of a q or k whose rotary pairs are neighbours: (2i, 2i+1) to (i, i+half).

    llama.cpp's converter interleaves them so; ours is Hugging Face's order.
    """
    key = name.startswith("attn_k")

    def choose(layer: Any) -> NDArray[np.int64]:
        attention: Attention = layer.mixer
        heads = attention.kv_heads if key else attention.heads
        rows = np.arange(heads * attention.head_width, dtype=np.int64)
        return rows.reshape(heads, -1, 2).swapaxes(1, 2).reshape(-1)

    return Rows(name, choose)


GGUF = Names(
    whole={"embedding": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"},
    layer="blk.{n}.",
    parts={
        "attention_norm": "attn_norm.weight",
        "mlp_norm": "ffn_norm.weight",
        "q": "attn_q.weight",
        "k": "attn_k.weight",
        "v": "attn_v.weight",
        "q.bias": "attn_q.bias",
        "k.bias": "attn_k.bias",
        "v.bias": "attn_v.bias",
        "q_norm": "attn_q_norm.weight",
        "k_norm": "attn_k_norm.weight",
        "o": "attn_output.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
        "router": "ffn_gate_inp.weight",
        "router_bias": "exp_probs_b.bias",
        "experts_gate": "ffn_gate_exps.weight",
        "experts_up": "ffn_up_exps.weight",
        "experts_down": "ffn_down_exps.weight",
        "shared_gate": "ffn_gate_shexp.weight",
        "shared_up": "ffn_up_shexp.weight",
        "shared_down": "ffn_down_shexp.weight",
        "shared_switch": "ffn_gate_inp_shexp.weight",
    },
)
"""What families share in GGUF (llama.cpp's gguf-py/gguf/constants.py)."""

CONFIG = Names(
    whole={
        "embedding": "model.embed_tokens.weight",
        "norm": "model.norm.weight",
        "head": "lm_head.weight",
    },
    layer="model.layers.{n}.",
    parts={
        "attention_norm": "input_layernorm.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "q.bias": "self_attn.q_proj.bias",
        "k.bias": "self_attn.k_proj.bias",
        "v.bias": "self_attn.v_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "o": "self_attn.o_proj.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "router": "mlp.gate.weight",
        "experts_gate": Stacked("mlp.experts.{e}.gate_proj.weight"),
        "experts_up": Stacked("mlp.experts.{e}.up_proj.weight"),
        "experts_down": Stacked("mlp.experts.{e}.down_proj.weight"),
    },
)
"""What families share in folders that `transformers` saves."""


def list_shapes(declaration: Declaration) -> dict[str, Shape]:
    """Name every weight of a model, in our terms, with the shape it must have."""
    width, vocab = declaration.width, declaration.vocab_size
    shapes: dict[str, Shape] = {"embedding": (vocab, width), "norm": (width,)}
    if not declaration.tied_head:
        shapes["head"] = (vocab, width)
    for index, layer in enumerate(declaration.layers):
        for part, shape in list_layer_shapes(layer, width=width).items():
            shapes[f"layers.{index}.{part}"] = shape
    return shapes


def list_layer_shapes(layer: Layer, *, width: int) -> dict[str, Shape]:
    """Name the weights of one layer, without `layers.N.`, with their shapes."""
    norms = ["attention_norm", "mlp_norm"]
    if layer.post_norms:
        norms += ["attention_post_norm", "mlp_post_norm"]
    shapes: dict[str, Shape] = dict.fromkeys(norms, (width,))
    for group in layer.groups:
        for part, outputs in group.parts:
            shapes[part] = (outputs, group.inputs)
            if group.bias:
                shapes[f"{part}.bias"] = (outputs,)
    return shapes | _list_mixer(layer.mixer) | _list_mlp(layer.mlp, width=width)


def _list_mixer(mixer: Mixer) -> dict[str, Shape]:
    match mixer:
        case Attention(head_norm=True):
            return dict.fromkeys(("q_norm", "k_norm"), (mixer.head_width,))
        case Attention():
            return {}
        case LatentAttention():
            outputs = mixer.heads * (mixer.nope_width + mixer.value_width)
            shapes: dict[str, Shape] = {
                "kv_down_norm": (mixer.kv_width,),
                "kv_up": (outputs, mixer.kv_width),
            }
            if mixer.q_down is not None:
                shapes["q_down_norm"] = (mixer.q_down.outputs,)
            return shapes
        case ShortConv():
            return {"conv": (mixer.width, mixer.taps)}
        case GatedDelta():
            return {
                "conv": (mixer.conv_width, mixer.taps),
                "decay": (mixer.value_heads,),
                "decay_bias": (mixer.value_heads,),
                "delta_norm": (mixer.value_width,),
            }


def _list_mlp(mlp: Mlp | Experts, *, width: int) -> dict[str, Shape]:
    if isinstance(mlp, Mlp):
        return {}
    shapes: dict[str, Shape] = {
        "router": (mlp.count, width),
        "experts_gate": (mlp.count, mlp.width, width),
        "experts_up": (mlp.count, mlp.width, width),
        "experts_down": (mlp.count, width, mlp.width),
    }
    if mlp.router.bias:
        shapes["router_bias"] = (mlp.count,)
    if mlp.shared_switch:
        shapes["shared_switch"] = (1, width)
    return shapes
