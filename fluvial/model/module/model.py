"""Build the PyTorch module of a checkpoint: the form that learns, in float32.

Base weights are constants; only the adapter's tensors ever take a gradient. Letters: s new tokens,
d width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.module.layer import Block
from fluvial.model.module.linear import AdapterTensors, LayerWeights, normalise, to_tensor
from fluvial.model.module.loss import HeadLoss, cap
from fluvial.model.module.mixer import State


@dataclass(frozen=True, eq=False)
class Past:
    """What a read leaves for the next: how many tokens were read, and each layer's state."""

    tokens: int
    states: tuple[State, ...]


class Module:
    """A checkpoint in float32, one sequence at a time."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.declaration: Declaration = checkpoint.declaration
        self._blocks = [
            Block(layer, LayerWeights(checkpoint, index))
            for index, layer in enumerate(self.declaration.layers)
        ]
        self._norm = to_tensor(checkpoint.vector("norm"))
        self._embedding = to_tensor(checkpoint.matrix("embedding"))
        tied = self.declaration.tied_head
        self._head = self._embedding if tied else to_tensor(checkpoint.matrix("head"))

    def weight_scale(self, name: str) -> float:
        """Return the Frobenius norm of a linear group's base weights, such as `layers.3.qkv`."""
        layer, group = name.removeprefix("layers.").split(".", 1)
        return float(self._blocks[int(layer)].linears[group].matrix_OI.norm())

    def read(
        self,
        token_ids: Tensor,
        *,
        adapter: AdapterTensors | None = None,
        past: Past | None = None,
    ) -> tuple[Tensor, Past]:
        """Run tokens int64 [s] after `past`; return hidden states [s, d] and the next past."""
        x_SD = self._embedding[token_ids]
        if self.declaration.embedding_scale != 1.0:
            x_SD = x_SD * self.declaration.embedding_scale
        x_SD, past = run_blocks(self._blocks, x_SD, adapter=adapter, past=past)
        return normalise(x_SD, self._norm, self.declaration.norm_epsilon), past

    def logits(self, hidden_SD: Tensor) -> Tensor:
        """Return logits float32 [s, V]."""
        return cap(hidden_SD @ self._head.T, self.declaration.logit_softcap)

    def losses(self, hidden_SD: Tensor, targets_S: Tensor) -> Tensor:
        """Return each target's loss in nats, float32 [s], without holding all logits at once."""
        softcap = self.declaration.logit_softcap
        return HeadLoss.apply(hidden_SD, self._head, targets_S, softcap)


def run_blocks(
    blocks: Sequence[Block], x_SD: Tensor, *, adapter: AdapterTensors | None, past: Past | None
) -> tuple[Tensor, Past]:
    """Run embedded tokens [s, d] through all layers after `past`; return [s, d], the next past."""
    start = 0 if past is None else past.tokens
    states: list[State] = []
    for index, block in enumerate(blocks):
        before = None if past is None else past.states[index]
        x_SD, state = block.run(x_SD, state=before, adapter=adapter, start=start)
        states.append(state)
    return x_SD, Past(start + len(x_SD), tuple(states))
