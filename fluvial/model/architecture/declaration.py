"""The neutral vocabulary in which a family declares its blocks, once.

`graph` builds the packed ONNX graph from a Declaration and `module` the PyTorch module. Widths are
counts of features. Weights are named `layers.N.PART` ([outputs, inputs]) for each part of a Group,
with `.bias` behind the name of a linear that has one; norms are vectors:

| where | parts and other weights |
|---|---|
| every layer | `attention_norm`, `mlp_norm` |
| with post_norms | `attention_post_norm`, `mlp_post_norm` |
| Attention | `q`, `k`, `v` (and `q_gate`), `o`; with head_norm `q_norm`, `k_norm` [head_width] |
| LatentAttention | `q_down`, `q_down_norm`, `q_up` (or `q`), `kv_down`, `kv_down_norm`, |
| | `kv_up`, `o` |
| ShortConv | `conv_in` (B, C and x, one after another), `conv` [width, taps], `conv_out` |
| GatedDelta | `delta_qkv`, `delta_z`, `delta_b`, `delta_a`, `conv` [features, taps], |
| | `decay` (A_log) and `decay_bias` (dt_bias) [value_heads], `delta_norm`, `delta_out` |
| Mlp | `gate`, `up`, `down` |
| Experts | `router` [count, width], with router_bias `router_bias` [count]; stacked matrices |
| | `experts_gate`, `experts_up`, `experts_down` [count, outputs, inputs]; with a shared part |
| | `shared_gate`, `shared_up`, `shared_down` and, with shared_switch, `shared_switch` [1, width] |

and `norm`, `embedding` and, unless tied, `head` ([vocabulary, width]). A norm multiplies by its
weight as it stands here: families that store `weight - 1` have one added when they are loaded.
"""

from dataclasses import dataclass
from typing import Literal

ActivationKind = Literal["silu", "gelu_tanh"]


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
class Rotary:
    """Rotary positions on features [start, start + 2 * len(frequencies)) of each head.

    `frequencies` are radians a token, one for each pair; long-context scaling is already in them.
    Pairs are (i, i + half), or neighbours (2i, 2i + 1) when `interleaved`. `magnitude` multiplies
    cosine and sine (1 but for YaRN).
    """

    frequencies: tuple[float, ...]
    start: int = 0
    interleaved: bool = False
    magnitude: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Causal grouped-query attention.

    Scores are `scale * q.k`, through `softcap * tanh(score / softcap)` where there is one, over
    the last `window` tokens (None: all). With `head_norm`, each head of q and of k goes through
    RMS norm before it turns. With a part `q_gate` in qkv (as many outputs as q), what is attended
    is multiplied by its sigmoid.
    """

    heads: int
    kv_heads: int
    head_width: int
    rotary: Rotary | None
    scale: float
    qkv: Group
    o: Group
    window: int | None = None
    softcap: float | None = None
    head_norm: bool = False

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.qkv, self.o)

    @property
    def has_gate(self) -> bool:
        return any(name == "q_gate" for name, _ in self.qkv.parts)


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    A token's cache entry is its latent (`kv_width`, after `kv_down_norm`) and one rotated key of
    2 * len(rotary.frequencies) features, shared by all heads. `kv_up` [heads * (nope_width +
    value_width), kv_width] makes keys and values from latents; it is not adapted. A head of q is
    nope_width features, then the rotated ones; `rotary.start` is nope_width. `norm_epsilon` is that
    of the two norms inside, which is not always the model's.
    """

    heads: int
    nope_width: int
    value_width: int
    kv_width: int
    rotary: Rotary
    scale: float
    q_down: Group | None
    q: Group
    kv_down: Group
    o: Group
    norm_epsilon: float = 1e-6

    @property
    def groups(self) -> tuple[Group, ...]:
        down = () if self.q_down is None else (self.q_down,)
        return (*down, self.q, self.kv_down, self.o)

    @property
    def rotary_width(self) -> int:
        return 2 * len(self.rotary.frequencies)


@dataclass(frozen=True, kw_only=True)
class ShortConv:
    """LFM2's gated short convolution: conv_out(C * conv(B * x)), causal, depthwise, `taps` wide."""

    width: int
    taps: int
    conv_in: Group
    conv_out: Group

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.conv_in, self.conv_out)


@dataclass(frozen=True, kw_only=True)
class GatedDelta:
    """Gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next: a recurrent state instead of a cache.

    q, k ([key_heads, key_width] each) and v ([value_heads, value_width]) go through one causal
    depthwise convolution and silu; z gates the output's norm.
    """

    key_heads: int
    value_heads: int
    key_width: int
    value_width: int
    taps: int
    delta_in: Group
    delta_out: Group

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.delta_in, self.delta_out)

    @property
    def conv_width(self) -> int:
        return 2 * self.key_heads * self.key_width + self.value_heads * self.value_width


Mixer = Attention | LatentAttention | ShortConv | GatedDelta


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Gated MLP: down(activation(gate(x)) * up(x)); `width` features inside."""

    width: int
    gate_up: Group
    down: Group
    activation: ActivationKind = "silu"

    @property
    def groups(self) -> tuple[Group, ...]:
        return (self.gate_up, self.down)


@dataclass(frozen=True, kw_only=True)
class Router:
    """How tokens choose experts.

    Scores are softmax or sigmoid of `router(x)` over all experts. With `bias`, the choice (not the
    weight) is made by score plus bias; with `groups` > 1, only experts of the `active_groups` best
    groups may be chosen, a group counting as much as its two best experts. Weights are the scores
    of the chosen, divided by their sum with `normalise`, times `scale`.
    """

    score: Literal["softmax", "sigmoid"]
    normalise: bool
    bias: bool = False
    groups: int = 1
    active_groups: int = 1
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Mixture of `count` gated MLPs of `width`, `active` for each token, beside a shared one.

    Routed experts are not adapted; the shared one is. With `shared_switch` the shared output is
    multiplied by the sigmoid of a product with x.
    """

    count: int
    active: int
    width: int
    router: Router
    shared: Mlp | None = None
    shared_switch: bool = False
    activation: ActivationKind = "silu"

    @property
    def groups(self) -> tuple[Group, ...]:
        return () if self.shared is None else self.shared.groups


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Pre-norm residual block: mixer, then MLP; with `post_norms`, a norm on what each adds."""

    mixer: Mixer
    mlp: Mlp | Experts
    post_norms: bool = False

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every linear that an adapter may change, in graph order."""
        return (*self.mixer.groups, *self.mlp.groups)

    @property
    def gain_width(self) -> int:
        """Features of the MLP activation that an adapter's gain multiplies; 0 without any."""
        mlp = self.mlp if isinstance(self.mlp, Mlp) else self.mlp.shared
        return 0 if mlp is None else mlp.width


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A whole decoder. `context_tokens` is the longest sequence it was trained for.

    Embeddings are multiplied by `embedding_scale`; logits go through `softcap * tanh(x / softcap)`
    where there is a `logit_softcap`.
    """

    family: str
    vocab_size: int
    width: int
    norm_epsilon: float
    context_tokens: int
    tied_head: bool
    layers: tuple[Layer, ...]
    embedding_scale: float = 1.0
    logit_softcap: float | None = None


def rotate(*, width: int, theta: float, start: int = 0, interleaved: bool = False) -> Rotary:
    """Return plain rotary positions over `width` features: frequencies theta ** (-2i / width)."""
    frequencies = tuple(theta ** (-2 * i / width) for i in range(width // 2))
    return Rotary(frequencies=frequencies, start=start, interleaved=interleaved)


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
    return Layer(
        mixer=declare_attention(
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            head_width=head_width,
            rotary=rotate(width=head_width, theta=rope_theta),
            qkv_bias=qkv_bias,
        ),
        mlp=declare_mlp(width=width, inner=mlp_width),
    )


def declare_attention(
    *,
    width: int,
    heads: int,
    kv_heads: int,
    head_width: int,
    rotary: Rotary | None,
    scale: float | None = None,
    qkv_bias: bool = False,
    gate: bool = False,
    window: int | None = None,
    softcap: float | None = None,
    head_norm: bool = False,
) -> Attention:
    """Declare grouped-query attention; `scale` None is one over the root of the head's width."""
    q, kv = heads * head_width, kv_heads * head_width
    parts = (("q", q), ("k", kv), ("v", kv), *((("q_gate", q),) if gate else ()))
    return Attention(
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        rotary=rotary,
        scale=head_width**-0.5 if scale is None else scale,
        qkv=Group(name="qkv", inputs=width, parts=parts, bias=qkv_bias),
        o=Group(name="o", inputs=q, parts=(("o", width),)),
        window=window,
        softcap=softcap,
        head_norm=head_norm,
    )


def declare_mlp(
    *, width: int, inner: int, activation: ActivationKind = "silu", prefix: str = ""
) -> Mlp:
    """Declare a gated MLP; `prefix` stands before the names of its groups and parts."""
    gate_up = ((f"{prefix}gate", inner), (f"{prefix}up", inner))
    return Mlp(
        width=inner,
        gate_up=Group(name=f"{prefix}gate_up", inputs=width, parts=gate_up),
        down=Group(name=f"{prefix}down", inputs=inner, parts=((f"{prefix}down", width),)),
        activation=activation,
    )
