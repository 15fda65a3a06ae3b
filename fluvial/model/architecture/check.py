"""Check that a declaration's numbers go together, before anything is computed with them."""

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    Experts,
    GatedDelta,
    LatentAttention,
    Layer,
    ShortConv,
)

MAX_TAPS = 64


def check_declaration(declaration: Declaration) -> Declaration:
    """Return the declaration; raises ModelError, naming the layer, when it can't be built."""
    for index, layer in enumerate(declaration.layers):
        problem = _find_problem(layer)
        if problem is not None:
            raise ModelError(f"layer {index}: {problem}")
    return declaration


def _find_problem(layer: Layer) -> str | None:
    problem = _find_mixer_problem(layer)
    if problem is None and isinstance(layer.mlp, Experts):
        problem = _find_experts_problem(layer.mlp)
    return problem


def _find_mixer_problem(layer: Layer) -> str | None:
    match layer.mixer:
        case Attention() as mixer:
            if mixer.heads % mixer.kv_heads or mixer.head_width % 2:
                return (
                    f"{mixer.heads} heads of width {mixer.head_width} don't go with "
                    f"{mixer.kv_heads} key heads"
                )
            rotary = mixer.rotary
            if rotary and rotary.start + 2 * len(rotary.frequencies) > mixer.head_width:
                return f"rotary positions don't fit heads of width {mixer.head_width}"
        case LatentAttention() as mixer:
            if mixer.rotary.start != mixer.nope_width:
                return "rotary positions must follow the features without them"
        case ShortConv(taps=taps) | GatedDelta(taps=taps) if not 1 < taps <= MAX_TAPS:
            return f"a convolution of {taps} taps; it must have 2 to {MAX_TAPS}"
        case GatedDelta() as mixer if mixer.value_heads % mixer.key_heads:
            return f"{mixer.value_heads} value heads don't go with {mixer.key_heads} key heads"
        case _:
            pass
    return None


def _find_experts_problem(experts: Experts) -> str | None:
    router = experts.router
    if experts.active > experts.count:
        return f"{experts.active} active experts of {experts.count}"
    if experts.count % router.groups or router.active_groups > router.groups:
        return f"{experts.count} experts don't go with {router.groups} groups"
    group = experts.count // router.groups
    if router.groups > 1 and group < 2:
        return f"{experts.count} experts in {router.groups} groups; a group must have two or more"
    if experts.active > group * router.active_groups:
        return (
            f"{experts.active} active experts, but {router.active_groups} groups of {group} hold "
            f"only {group * router.active_groups}"
        )
    return None
