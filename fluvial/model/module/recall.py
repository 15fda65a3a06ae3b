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
from fluvial.model.module.gradient import Backward, Floats, NativeNorm
from fluvial.model.module.layer import Block
from fluvial.model.module.linear import AdapterTensors, LayerWeights, to_tensor
from fluvial.model.module.mixer import State
from fluvial.model.module.model import Past

OnInputs = Callable[[str, Tensor], None]


class Product(Protocol):
    """A transposed matrix that gradients go back through (`fluvial.engine.product`)."""

    def go_back(
        self,
        x_SI: Floats,
        a_IR: Floats,
        b_RO: Floats,
        grad_SO: Floats,
        *,
        wanted: tuple[bool, bool, bool],
    ) -> tuple[Floats | None, Floats | None, Floats | None]:
        """Return the gradients of `W x + B (A x)` by x, a and b; None for those not wanted."""
        ...


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

    Gradients go back through `products`, the transposes of all groups, `head`, the output layer,
    and `backward`, the rest.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        products: Mapping[str, Product],
        head: Head,
        backward: Backward,
    ) -> None:
        self._head, self._backward = head, backward
        self._on_inputs: OnInputs | None = None
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
        epsilon = self._declaration.norm_epsilon
        hidden = NativeNorm.apply(x_SD, self._norm, epsilon, self._backward)
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

    @torch.no_grad()
    def list_inputs(self, outputs: Mapping[str, Floats]) -> dict[str, Tensor]:
        """Return what each linear was given in a step that began a text, [s, i], by group."""
        found: dict[str, Tensor] = {}
        self._on_inputs = found.__setitem__
        try:
            self.read(outputs)
        finally:
            self._on_inputs = None
        return found

    def losses(self, hidden_SD: Tensor, logits_SV: Floats, targets_S: Tensor) -> Tensor:
        """Return each target's loss in nats, float32 [s]. The logits may be overwritten."""
        cap = self._declaration.logit_softcap
        return _HeadLoss.apply(hidden_SD, logits_SV, targets_S, self._head, cap)

    def _remember(self, outputs: Mapping[str, Floats]) -> None:
        self._outputs = {name: torch.from_numpy(array) for name, array in outputs.items()}

    def _describe(self, checkpoint: Checkpoint, index: int) -> LayerWeights:
        def recall(name: str) -> Tensor | None:
            return self._outputs.get(name)

        return LayerWeights(
            checkpoint, index, make_linear=self._make_linear, recall=recall, backward=self._backward
        )

    def _make_linear(self, name: str, group: Group) -> "_RecalledLinear":
        del group
        return _RecalledLinear(
            name,
            self._products[name],
            recall=lambda: self._outputs[name],
            tell=lambda x_SI: self._on_inputs and self._on_inputs(name, x_SI),
        )


def _detach(state: State) -> State:
    return tuple(each.detach() for each in state)


class _RecalledLinear:
    def __init__(
        self,
        name: str,
        product: Product,
        *,
        recall: Callable[[], Tensor],
        tell: Callable[[Tensor], None],
    ) -> None:
        self.name = name
        self._product, self._recall, self._tell = product, recall, tell

    def __call__(self, x_SI: Tensor, adapter: AdapterTensors | None) -> Tensor:
        self._tell(x_SI)
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
        found = ctx.product.go_back(
            *(each.detach().numpy() for each in (x_SI, a_IR, b_RO)),
            grad_outputs[0].contiguous().numpy(),
            wanted=ctx.needs_input_grad[:3],
        )
        grads = (None if each is None else torch.from_numpy(each) for each in found)
        return *grads, None, None


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
