"""Run a module on what the engine has computed: linears are recalled, only the rest is computed.

A forward pass of the engine tells what every linear gave. Here the cheap parts between them (norms,
positions, attention, activations) are computed again in float32, so that PyTorch can carry
gradients through them; through a linear they go by its packed transpose. So no product with a
weight is done twice, and the weights are not needed in float32.

Letters: s new tokens, i inputs, o outputs, r rank, d width, V vocabulary.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.model.architecture.declaration import Group
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.module.layer import Block
from fluvial.model.module.linear import AdapterTensors, LayerWeights, normalise, to_tensor
from fluvial.model.module.mixer import State
from fluvial.model.module.model import Past

Floats = NDArray[np.float32]
Product = Callable[[Floats], Floats]


class Head(Protocol):
    """Goes back through the output layer (`HeadGradient`)."""

    def __call__(
        self,
        logits_SV: Floats,
        targets_S: NDArray[np.int64],
        *,
        softcap: float | None = None,
        gradient: bool = True,
    ) -> tuple[Floats, Floats | None]:
        """Return losses [s], and their gradients by the layer's inputs [s, d]."""
        ...


class RecalledModule:
    """A checkpoint without its matrices, one sequence at a time.

    `products` multiply with the transposes: of each group, and, unless `head` goes back through the
    output layer by itself, of the head.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        products: Mapping[str, Product],
        head: Head | None = None,
    ) -> None:
        self._head = head
        self._declaration = checkpoint.declaration
        self._products = products
        self._outputs: Mapping[str, Tensor] = {}
        self._blocks = [
            Block(layer, self._describe(checkpoint, index))
            for index, layer in enumerate(self._declaration.layers)
        ]
        self._norm = to_tensor(checkpoint.vector("norm"))

    def read(
        self,
        outputs: Mapping[str, Floats],
        *,
        adapter: AdapterTensors | None = None,
        past: Past | None = None,
        first_layer: int = 0,
    ) -> tuple[Tensor, Past]:
        """Go through one step of the engine; return hidden states [s, d] and the next past.

        `outputs` are what `Recorder` tells of the step; they must not change before the backward
        pass has ended. Layers before `first_layer` are not gone through, so that nothing in them
        gets a gradient. `past` takes no gradient, and the next one carries none.
        """
        self._remember(outputs)
        start = 0 if past is None else past.tokens
        x_SD = self._outputs["embedded"]
        states: list[State] = []
        for index, block in enumerate(self._blocks):
            before = None if past is None else _detach(past.states[index])
            if index < first_layer:
                with torch.no_grad():
                    state = block.advance(state=before, start=start)
                    x_SD = block.skip(x_SD)
            else:
                x_SD, state = block.run(x_SD, state=before, adapter=adapter, start=start)
            states.append(_detach(state))
        hidden = normalise(x_SD, self._norm, self._declaration.norm_epsilon)
        return hidden, Past(start + len(x_SD), tuple(states))

    @torch.no_grad()
    def advance(self, outputs: Mapping[str, Floats], past: Past | None = None) -> Past:
        """Return the next past of a step that is not learned from, as `read` would."""
        self._remember(outputs)
        start = 0 if past is None else past.tokens
        states = [
            block.advance(state=None if past is None else past.states[index], start=start)
            for index, block in enumerate(self._blocks)
        ]
        return Past(start + len(self._outputs["embedded"]), tuple(states))

    def losses(self, hidden_SD: Tensor, logits_SV: Floats, targets_S: Tensor) -> Tensor:
        """Return each target's loss in nats, float32 [s]. The logits may be overwritten."""
        if self._head is not None:
            cap = self._declaration.logit_softcap
            return _HeadLoss.apply(hidden_SD, logits_SV, targets_S, self._head, cap)
        return _RecalledLoss.apply(
            hidden_SD,
            torch.from_numpy(logits_SV),
            targets_S,
            self._products["head"],
            self._declaration.logit_softcap,
        )

    def _remember(self, outputs: Mapping[str, Floats]) -> None:
        self._outputs = {name: torch.from_numpy(array) for name, array in outputs.items()}

    def _describe(self, checkpoint: Checkpoint, index: int) -> LayerWeights:
        def recall(name: str) -> Tensor | None:
            return self._outputs.get(name)

        return LayerWeights(checkpoint, index, make_linear=self._make_linear, recall=recall)

    def _make_linear(self, name: str, group: Group) -> "_RecalledLinear":
        del group
        return _RecalledLinear(name, self._products[name], lambda: self._outputs[name])


def _detach(state: State) -> State:
    return tuple(each.detach() for each in state)


class _RecalledLinear:
    def __init__(self, name: str, product: Product, recall: Callable[[], Tensor]) -> None:
        self.name = name
        self._product, self._recall = product, recall

    def __call__(self, x_SI: Tensor, adapter: AdapterTensors | None) -> Tensor:
        y_SO = self._recall()
        if not adapter or not torch.is_grad_enabled():
            return y_SO
        a_IR, b_RO = adapter[f"{self.name}.a"], adapter[f"{self.name}.b"]
        return _Recall.apply(x_SI, a_IR, b_RO, y_SO, self._product)


class _Recall(torch.autograd.Function):
    """`y = W x + B (A x)` where y is known."""

    @staticmethod
    def forward(
        ctx: Any, x_SI: Tensor, a_IR: Tensor, b_RO: Tensor, y_SO: Tensor, product: Product
    ) -> Tensor:
        ctx.save_for_backward(x_SI, a_IR, b_RO)
        ctx.product = product
        return y_SO.view_as(y_SO)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x_SI, a_IR, b_RO = ctx.saved_tensors
        (grad_SO,) = grad_outputs
        needs_x, needs_a, needs_b = ctx.needs_input_grad[:3]
        grad_x = grad_a = grad_b = None
        if needs_b:
            grad_b = (x_SI @ a_IR).T @ grad_SO
        if needs_x or needs_a:
            low_SR = grad_SO @ b_RO.T
            if needs_a:
                grad_a = (low_SR.T @ x_SI).T  # over tokens, the faster way round
            if needs_x:
                grad_x = torch.from_numpy(ctx.product(grad_SO.contiguous().numpy()))
                grad_x.addmm_(low_SR, a_IR.T)
        return grad_x, grad_a, grad_b, None, None


class _HeadLoss(torch.autograd.Function):
    """Cross-entropy of known logits, with the gradient made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        logits_SV: Floats,
        targets_S: Tensor,
        head: Head,
        softcap: float | None,
    ) -> Tensor:
        """Return each target's loss in nats, [s]."""
        del hidden_SD
        losses, grad_SD = head(
            logits_SV, targets_S.numpy(), softcap=softcap, gradient=ctx.needs_input_grad[0]
        )
        if grad_SD is not None:
            ctx.save_for_backward(torch.from_numpy(grad_SD))
        return torch.from_numpy(losses)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad_SD,) = ctx.saved_tensors
        return grad_SD * grad_outputs[0][:, None], None, None, None, None


class _RecalledLoss(torch.autograd.Function):
    """Cross-entropy of known logits."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_SD: Tensor,
        logits_SV: Tensor,
        targets_S: Tensor,
        product: Product,
        softcap: float | None,
    ) -> Tensor:
        """Return each target's loss in nats, [s]."""
        del hidden_SD
        log_norm_S = logits_SV.logsumexp(dim=-1)
        ctx.save_for_backward(logits_SV, log_norm_S, targets_S)
        ctx.product, ctx.softcap = product, softcap
        return log_norm_S - logits_SV.gather(1, targets_S[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        logits_SV, log_norm_S, targets_S = ctx.saved_tensors
        slope = None if ctx.softcap is None else 1 - (logits_SV / ctx.softcap) ** 2
        grad_SV = logits_SV.sub_(log_norm_S[:, None]).exp_()
        at = targets_S[:, None]
        grad_SV.scatter_add_(1, at, torch.full_like(at, -1, dtype=grad_SV.dtype))
        grad_SV.mul_(grad_outputs[0][:, None])
        if slope is not None:
            grad_SV.mul_(slope)
        return torch.from_numpy(ctx.product(grad_SV.numpy())), None, None, None, None
