"""Turn tokens that were read into the next state of a session's adapter; nothing else trains.

Score first, single pass: the forward pass whose losses are reported is the one that is learned
from, so no score has ever seen its own chunk. Base weights are never written to; the state is
float32 throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.adapt.rule import ChunkResult, Rule
from fluvial.model.adapter import Tensors, create_tensors
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.module import AdapterTensors, Module
from fluvial.model.opening import AnyCheckpoint


@dataclass(eq=False)
class _State:
    """One session's adapter while it learns: live tensors and their optimiser."""

    tensors: dict[str, Tensor]
    optimizer: torch.optim.Adam


class LearningModule(Protocol):
    """A checkpoint in float32: what Module and Fallback have in common."""

    def weight_scale(self, name: str) -> float:
        """Return the Frobenius norm of a group's base weights."""
        ...

    def read(
        self, token_ids: Tensor, *, adapter: AdapterTensors | None = None, past: Any = None
    ) -> tuple[Tensor, Any]:
        """Run tokens after `past`; return what `losses` takes, and the next past."""
        ...

    def losses(self, hidden_SD: Tensor, targets_S: Tensor, /) -> Tensor:
        """Return each target's loss in nats."""
        ...


class Learner:
    """Holds a checkpoint in float32 and the live adapters of the sessions that read."""

    def __init__(self, checkpoint: AnyCheckpoint, *, rule: Rule) -> None:
        self._declaration = checkpoint.declaration
        self._module = _open_module(checkpoint)
        self._rule = rule
        self._states: dict[str, _State] = {}
        self._base_norms = {
            f"layers.{index}.{group.name}": self._module.weight_scale(
                f"layers.{index}.{group.name}"
            )
            for index, layer in enumerate(self._declaration.layers)
            for group in layer.groups
        }

    def use_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""
        torch.set_num_threads(threads)

    def load(self, session: str, tensors: Tensors | None) -> None:
        """Start or restart a session from `tensors` (None: the base), with a fresh optimiser."""
        if tensors is None:
            rule = self._rule
            tensors = create_tensors(self._declaration, rank=rule.rank, seed=rule.seed)
        live = {
            name: torch.from_numpy(np.array(array)).requires_grad_()
            for name, array in tensors.items()
        }
        self._states[session] = _State(live, self._create_optimizer(live))

    def drop(self, session: str) -> None:
        """Forget a session's live state; unknown sessions are fine."""
        self._states.pop(session, None)

    def export(self, session: str) -> dict[str, NDArray[np.float32]]:
        """Copy out a session's adapter as it is now."""
        return {
            name: t.detach().numpy().copy() for name, t in self._states[session].tensors.items()
        }

    def read(
        self,
        session: str,
        *,
        context: Sequence[int],
        chunk: Sequence[int],
        learn: bool,
        compare: bool = True,
    ) -> ChunkResult:
        """Score `chunk` after `context` (at least one token), then learn from it if `learn`.

        With `compare`, the frozen base is scored on the same window too. An update whose loss or
        gradient is not finite is left out; the state stays what it was.
        """
        state = self._states[session]
        learn = learn and len(chunk) >= self._rule.min_tokens
        frozen = self._score(context, chunk, None) if compare else None
        with torch.set_grad_enabled(learn):
            losses = self._losses(context, chunk, state.tensors)
        adapted = float(losses.detach().sum())
        learned = learn and self._update(state, losses.mean(), share=len(chunk))
        return ChunkResult(
            adapted_nats=adapted,
            frozen_nats=frozen,
            learned=learned,
            drift=self.measure_drift(session) if learned else 0.0,
        )

    def score(self, context: Sequence[int], chunk: Sequence[int]) -> float:
        """Return the frozen base's loss on `chunk` after `context`, in nats, summed."""
        return self._score(context, chunk, None)

    @torch.no_grad()
    def score_tokens(self, context: Sequence[int], chunk: Sequence[int]) -> list[float]:
        """Return the frozen base's loss on each token of `chunk` after `context`, in nats."""
        return self._losses(context, chunk, None).tolist()

    @torch.no_grad()
    def measure_drift(self, session: str) -> float:
        """Return the size of the change in weights relative to the base weights, over all layers.

        The root of sum |A B|^2 over sum |W|^2, from the rank-sized Gram matrices.
        """
        tensors = self._states[session].tensors
        change = 0.0
        for name in self._base_norms:
            a, b = tensors[f"{name}.a"], tensors[f"{name}.b"]
            change += float(((a.T @ a) * (b @ b.T)).sum())
        base = sum(norm**2 for norm in self._base_norms.values())
        return float((max(change, 0.0) / base) ** 0.5)

    def _score(
        self, context: Sequence[int], chunk: Sequence[int], tensors: AdapterTensors | None
    ) -> float:
        with torch.no_grad():
            return float(self._losses(context, chunk, tensors).sum())

    def _losses(
        self, context: Sequence[int], chunk: Sequence[int], tensors: AdapterTensors | None
    ) -> Tensor:
        # The context only serves as keys and values: without gradients it needs no backward pass.
        past = None
        if len(context) > 1:
            with torch.no_grad():
                _, past = self._module.read(torch.tensor(context[:-1]), adapter=tensors)
        inputs = torch.tensor([context[-1], *chunk[:-1]])
        hidden, _ = self._module.read(inputs, adapter=tensors, past=past)
        return self._module.losses(hidden, torch.tensor(chunk))

    def _create_optimizer(self, live: dict[str, Tensor]) -> torch.optim.Adam:
        """Give each tensor its rate: see `Rule`."""
        groups = [
            {"params": [tensor], "full_lr": self._choose_rate(name, tensor)}
            for name, tensor in live.items()
        ]
        return torch.optim.Adam(groups, foreach=True)

    def _choose_rate(self, name: str, tensor: Tensor) -> float:
        if not name.endswith(".b"):
            return self._rule.learning_rate
        row_norm = self._base_norms[name.removesuffix(".b")] / tensor.shape[1] ** 0.5
        return self._rule.weight_rate * row_norm

    def _update(self, state: _State, loss: Tensor, *, share: int) -> bool:
        # Adam's steps don't shrink with the evidence, so a short chunk gets a step in proportion.
        for group in state.optimizer.param_groups:
            group["lr"] = group["full_lr"] * min(1.0, share / self._rule.chunk_tokens)
        state.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(state.tensors.values()), self._rule.clip)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            return False
        state.optimizer.step()
        return True


def _open_module(checkpoint: AnyCheckpoint) -> LearningModule:
    if isinstance(checkpoint, Checkpoint):
        return Module(checkpoint)
    # Only here: transformers is an extra, and takes seconds to load.
    from fluvial.model.fallback import Fallback

    return Fallback(checkpoint)
