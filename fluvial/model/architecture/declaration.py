"""The neutral vocabulary in which a family declares its blocks, once.

`graph` builds the packed ONNX graph from a Declaration and `module` the PyTorch module. Widths are
counts of features. Weights are named `layers.N.q`, `.k`, `.v`, `.o`, `.gate`, `.up`, `.down`
([outputs, inputs]), with `.bias` behind the name of a linear that has one; norms
`layers.N.attention_norm`, `layers.N.mlp_norm`, `norm`; tables `embedding` and, unless tied, `head`
([vocabulary, width]).
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Group:
    """Linears that read the same input, computed as one product. `parts` are (name, outputs)."""

    name: str
    inputs: int
    parts: tuple[tuple[str, int], ...]
    bias: bool = False

    @property
    def outputs(self) -> int:
        return sum(outputs for _, outputs in self.parts)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Causal grouped-query attention with rotary positions (half-split form, as in GPT-NeoX)."""

    heads: int
    kv_heads: int
    head_width: int
    rope_theta: float
    qkv: Group
    o: Group


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Gated MLP: down(silu(gate(x)) * up(x)); `width` features inside."""

    width: int
    gate_up: Group
    down: Group


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Pre-norm residual block: attention, then MLP."""

    attention: Attention
    mlp: Mlp

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.attention.qkv, self.attention.o, self.mlp.gate_up, self.mlp.down)


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A whole decoder. `context_tokens` is the longest sequence it was trained for."""

    family: str
    vocab_size: int
    width: int
    norm_epsilon: float
    context_tokens: int
    tied_head: bool
    layers: tuple[Layer, ...]


def declare_layer(
    *,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    mlp_width: int,
    rope_theta: float,
    qkv_bias: bool = False,
) -> Layer:
    """Declare the block that llama and its relatives share."""
    q, kv = heads * head_width, kv_heads * head_width
    return Layer(
        attention=Attention(
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            rope_theta=rope_theta,
            qkv=Group(
                name="qkv", inputs=width, parts=(("q", q), ("k", kv), ("v", kv)), bias=qkv_bias
            ),
            o=Group(name="o", inputs=q, parts=(("o", width),)),
        ),
        mlp=Mlp(
            width=mlp_width,
            gate_up=Group(
                name="gate_up", inputs=width, parts=(("gate", mlp_width), ("up", mlp_width))
            ),
            down=Group(name="down", inputs=mlp_width, parts=(("down", width),)),
        ),
    )
