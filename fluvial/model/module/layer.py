"""One residual block: its mixer and its MLP, chosen by the types in the declaration."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import (
    Attention,
    Experts,
    GatedDelta,
    LatentAttention,
    Layer,
    Mlp,
    ShortConv,
)
from fluvial.model.module.attention import AttentionMixer
from fluvial.model.module.conv import ShortConvMixer
from fluvial.model.module.delta import GatedDeltaMixer
from fluvial.model.module.experts import ExpertsMlp
from fluvial.model.module.latent import LatentMixer
from fluvial.model.module.linear import AdapterTensors, LayerWeights, Linear
from fluvial.model.module.mixer import Mixing, State, Widening
from fluvial.model.module.mlp import GatedMlp

T = TypeVar("T")

_MIXERS: dict[type, Callable[[Any, LayerWeights], Mixing]] = {
    Attention: AttentionMixer,
    LatentAttention: LatentMixer,
    ShortConv: ShortConvMixer,
    GatedDelta: GatedDeltaMixer,
}
_MLPS: dict[type, Callable[[Any, LayerWeights], Widening]] = {
    Mlp: GatedMlp,
    Experts: ExpertsMlp,
}


class Block:
    """One layer with its weights. `linears` are those that an adapter may change, by group."""

    def __init__(self, layer: Layer, weights: LayerWeights) -> None:
        self._epsilon = weights.epsilon
        self._layer, self._recall = layer, weights.recall
        self._mixer = _choose(_MIXERS, layer.mixer)(layer.mixer, weights)
        self._mlp = _choose(_MLPS, layer.mlp)(layer.mlp, weights)
        self._attention_norm = weights.vector("attention_norm")
        self._mlp_norm = weights.vector("mlp_norm")
        self._attention_post_norm = self._mlp_post_norm = None
        if layer.post_norms:
            self._attention_post_norm = weights.vector("attention_post_norm")
            self._mlp_post_norm = weights.vector("mlp_post_norm")
        self.linears: dict[str, Linear] = weights.linears

    def run(
        self,
        x_SD: Tensor,
        *,
        state: State | None,
        adapter: AdapterTensors | None,
        start: int,
    ) -> tuple[Tensor, State]:
        """Run s tokens at positions from `start`; return them and the mixer's next state."""
        normal = self._recall.normalise(x_SD, self._attention_norm, self._epsilon)
        mixed, state = self._mixer.run(normal, state=state, adapter=adapter, start=start)
        x_SD = x_SD + self._after(mixed, self._attention_post_norm)
        normal = self._recall.normalise(x_SD, self._mlp_norm, self._epsilon)
        wide = self._mlp.run(normal, adapter=adapter)
        return x_SD + self._after(wide, self._mlp_post_norm), state

    def advance(self, *, state: State | None, start: int) -> State:
        """Return the mixer's next state of a recalled layer, and nothing else."""
        return self._mixer.advance(state=state, start=start)

    def skip(self, x_SD: Tensor) -> Tensor:
        """Return the tokens after a recalled layer, through which no gradient goes."""
        mixed = self._recall(self._layer.mixer.groups[-1].name)
        x_SD = x_SD + self._after(mixed, self._attention_post_norm)
        if isinstance(self._layer.mlp, Mlp):
            wide = self._recall(self._layer.mlp.groups[-1].name)
        else:
            normal = self._recall.normalise(x_SD, self._mlp_norm, self._epsilon)
            wide = self._mlp.run(normal, adapter=None)
        return x_SD + self._after(wide, self._mlp_post_norm)

    def _after(self, branch_SD: Tensor, norm_D: Tensor | None) -> Tensor:
        if norm_D is None:
            return branch_SD
        return self._recall.normalise(branch_SD, norm_D, self._epsilon)


def _choose(table: dict[type, T], declaration: object) -> T:
    chosen = table.get(type(declaration))
    if chosen is None:
        raise ModelError(f"{type(declaration).__name__} layers can't be run by PyTorch yet")
    return chosen
