"""Ways through a text: score chunk after chunk, and carry gradients back through the last one.

A window is the text since its beginning as one side has it: keys and values of tokens that were
computed under the adapter of their time, and are not computed again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.adapt.live import Live
from fluvial.engine.backward import NativeBackward
from fluvial.engine.decoder import Cache
from fluvial.engine.head import HeadGradient
from fluvial.engine.product import Product
from fluvial.engine.protocol import Part
from fluvial.engine.recorder import Recorder
from fluvial.errors import LearnerError
from fluvial.model.built import ensure_graph, ensure_transposed
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.module import AdapterTensors, Module, Past, RecalledModule
from fluvial.model.opening import AnyCheckpoint
from fluvial.model.transposed import read_transposed

Nats = NDArray[np.float32]
MOST_WINDOWS = 12
"""Windows that may be open at once: two for each session that learns, and some to spare."""


@dataclass(frozen=True, eq=False)
class Asked:
    """The next chunk of a window. The adapter is live's, None: none."""

    window: Any
    chunk: Sequence[int]
    live: Live | None


class Tracer(Protocol):
    """Scores texts for the sessions of one learner. `norms` are those of each group's weights."""

    @property
    def norms(self) -> Mapping[str, float]: ...

    def use_threads(self, threads: int) -> None:
        """Compute on so many threads from now on."""
        ...

    def open(self, context: Sequence[int], live: Live | None, *, learns: bool) -> Any:
        """Begin a window behind at least one token; `learns`: gradients may be asked for."""
        ...

    def score_all(self, asked: Sequence[Asked]) -> list[Nats]:
        """Append a chunk to each of some windows; return the losses of their tokens, in nats.

        The windows must differ. None gets other bits than it would alone.
        """
        ...

    def differentiate(self, window: Any, live: Live) -> None:
        """Add the gradient of the mean loss of the chunk just scored to `live.trained`.

        It must be one of those that were scored last, and no window opened since.
        """
        ...

    def skip(self, window: Any) -> None:
        """Say, in place of `differentiate`, that the chunk is not learned from."""
        ...

    def close(self, window: Any) -> None:
        """Let go of a window."""
        ...

    def measure_logits(self, tokens: Sequence[int], live: Live | None) -> Nats:
        """Return the logits after each token of a text, float32 [s, V]."""
        ...


@dataclass(eq=False)
class _Recorded:
    """A window in the engine; `past` is what the module has of it, None where it never learns."""

    cache: Cache
    last: int
    learns: bool
    past: Past | None = None
    logits: Nats | None = None
    targets: Tensor | None = None


@dataclass(frozen=True, eq=False)
class _Step:
    """A window's share of one run of the engine."""

    window: _Recorded
    tokens: Sequence[int]
    live: Live | None


class RecordedTracer:
    """Scores with the engine, and learns from what it computed (`RecalledModule`)."""

    def __init__(
        self, checkpoint: Checkpoint, *, graph_dir: Path, positions: int, window_tokens: int
    ) -> None:
        """Open the graph and the transposes below `graph_dir`, building what is not there.

        `positions`: for how many the server's graph is built, so that there is only one;
        `window_tokens`: the longest window.
        """
        self._recorder = Recorder(
            checkpoint,
            graph_folder=ensure_graph(checkpoint, cache_dir=graph_dir, positions=positions),
            context_tokens=window_tokens,
            cache_tokens=MOST_WINDOWS * window_tokens,
            threads=1,
            adapter_slots=2,
        )
        transposed = read_transposed(ensure_transposed(checkpoint, cache_dir=graph_dir))
        self.norms: Mapping[str, float] = transposed.norms
        self._rows: dict[_Recorded, slice] = {}
        self._head = HeadGradient(self._recorder.head)
        self._module = RecalledModule(
            checkpoint,
            products={name: Product(packed) for name, packed in transposed.packed.items()},
            head=self._head,
            backward=NativeBackward(),
        )

    def use_threads(self, threads: int) -> None:
        self._recorder.use_threads(threads)
        # What is left to PyTorch comes in small pieces: its threads would mostly wait.
        torch.set_num_threads(1)

    def open(self, context: Sequence[int], live: Live | None, *, learns: bool) -> _Recorded:
        window = _Recorded(self._recorder.new_cache(), context[-1], learns)
        if len(context) > 1:
            self._step(window, context[:-1], live, wanted=False)
            self.skip(window)
        return window

    def score_all(self, asked: Sequence[Asked]) -> list[Nats]:
        steps = [
            _Step(each.window, [each.window.last, *each.chunk[:-1]], each.live) for each in asked
        ]
        found = self._run(steps, wanted=True)
        return [self._note(each, logits) for each, logits in zip(asked, found, strict=True)]

    def differentiate(self, window: _Recorded, live: Live) -> None:
        if window.logits is None or window.targets is None:
            raise LearnerError("no chunk of this window is still there to learn from")
        hidden, window.past = self._module.read(
            self._list_outputs(window),
            adapter=live.tensors,
            past=window.past,
            first_layer=live.first_layer,
        )
        self._module.losses(hidden, window.logits, window.targets).mean().backward()
        window.logits = window.targets = None

    def skip(self, window: _Recorded) -> None:
        if window.learns:
            window.past = self._module.advance(self._list_outputs(window), window.past)
        window.logits = window.targets = None

    def close(self, window: _Recorded) -> None:
        self._recorder.release(window.cache)

    def measure_logits(self, tokens: Sequence[int], live: Live | None) -> Nats:
        window = self.open(tokens[:1], live, learns=False)
        logits = self._step(window, tokens, live, wanted=True).copy()
        self.close(window)
        return logits

    def measure_inputs(self, tokens: Sequence[int]) -> dict[str, Nats]:
        """Return what each linear of the base is given for a text, float32 [s, i], by group."""
        window = self.open(tokens[:1], None, learns=True)
        self._step(window, tokens, None, wanted=False)
        found = self._module.list_inputs(self._recorder.outputs)
        self.close(window)
        return {name: inputs.numpy().copy() for name, inputs in found.items()}

    def _step(
        self, window: _Recorded, tokens: Sequence[int], live: Live | None, *, wanted: bool
    ) -> Nats:
        return self._run([_Step(window, tokens, live)], wanted=wanted)[0]

    def _run(self, steps: Sequence[_Step], *, wanted: bool) -> list[Nats]:
        """Run the engine once; what it tells is then there until it runs again."""
        parts = [self._plan(each, wanted=wanted) for each in steps]
        ends = accumulate((len(each.tokens) for each in steps), initial=0)
        self._rows = {
            each.window: slice(*rows) for each, rows in zip(steps, pairwise(ends), strict=True)
        }
        self._recorder.recording = any(each.window.learns for each in steps)
        return self._recorder.step(parts)

    def _plan(self, step: _Step, *, wanted: bool) -> Part:
        cache = step.window.cache
        if not self._recorder.reserve(cache, cache.length + len(step.tokens)):
            raise LearnerError("the learner has no room for another window")
        rows = tuple(range(len(step.tokens))) if wanted else ()
        return Part(cache, step.tokens, None if step.live is None else step.live.freeze(), rows)

    def _list_outputs(self, window: _Recorded) -> dict[str, Nats]:
        """Return what the last step told of a window's tokens, not copied."""
        rows = self._rows.get(window)
        if rows is None:
            raise LearnerError("another step has overwritten what is to be learned from")
        return {name: array[rows] for name, array in self._recorder.outputs.items()}

    def _note(self, asked: Asked, logits: Nats) -> Nats:
        """Keep what a gradient takes, until the next step; return the losses."""
        window, targets = asked.window, np.array(asked.chunk, np.int64)
        window.last = asked.chunk[-1]
        if window.learns:
            window.logits, window.targets = logits, torch.from_numpy(targets)
        return self._head(logits, targets, gradient=False)[0]


@dataclass(eq=False)
class _Computed:
    """A window of the float32 module. `tokens` are only kept where they are computed again."""

    last: int
    past: Any = None
    tokens: list[int] | None = None
    losses: Tensor | None = None


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

    def logits(self, hidden_SD: Tensor, /) -> Tensor:
        """Return logits [s, V]."""
        ...


class ComputedTracer:
    """Computes everything in float32 with PyTorch: slower, and right for any checkpoint."""

    def __init__(self, checkpoint: AnyCheckpoint) -> None:
        self._module, self._carries = _open_module(checkpoint)
        self.norms: Mapping[str, float] = {
            f"layers.{index}.{group.name}": self._module.weight_scale(
                f"layers.{index}.{group.name}"
            )
            for index, layer in enumerate(checkpoint.declaration.layers)
            for group in layer.groups
        }

    def use_threads(self, threads: int) -> None:
        torch.set_num_threads(threads)

    def open(self, context: Sequence[int], live: Live | None, *, learns: bool) -> _Computed:
        del learns
        window = _Computed(context[-1])
        if not self._carries:
            window.tokens = list(context[:-1])
        elif len(context) > 1:
            window.past = self._run_past(context[:-1], live)
        return window

    def score_all(self, asked: Sequence[Asked]) -> list[Nats]:
        return [self._score(each.window, each.chunk, each.live) for each in asked]

    def differentiate(self, window: _Computed, live: Live) -> None:
        del live
        if window.losses is None:
            raise LearnerError("no chunk of this window is still there to learn from")
        window.losses.mean().backward()
        window.losses = None

    def skip(self, window: _Computed) -> None:
        window.losses = None

    def close(self, window: _Computed) -> None:
        window.past = window.losses = None

    @torch.no_grad()
    def measure_logits(self, tokens: Sequence[int], live: Live | None) -> Nats:
        tensors = None if live is None else live.tensors
        hidden, _ = self._module.read(torch.tensor(tokens), adapter=tensors)
        return self._module.logits(hidden).numpy()

    def _score(self, window: _Computed, chunk: Sequence[int], live: Live | None) -> Nats:
        inputs, past = [window.last, *chunk[:-1]], window.past
        if window.tokens:
            past = self._run_past(window.tokens, live)
        tensors = None if live is None else live.tensors
        with torch.set_grad_enabled(live is not None):
            hidden, after = self._module.read(torch.tensor(inputs), adapter=tensors, past=past)
            losses = self._module.losses(hidden, torch.tensor(chunk))
        if window.tokens is None:
            window.past = detach(after)
        else:
            window.tokens += inputs
        window.last, window.losses = chunk[-1], losses
        return losses.detach().numpy()

    @torch.no_grad()
    def _run_past(self, tokens: Sequence[int], live: Live | None) -> Any:
        tensors = None if live is None else live.tensors
        return self._module.read(torch.tensor(tokens), adapter=tensors)[1]


def detach(past: Past) -> Past:
    """Return a past through which no gradient goes."""
    states = tuple(tuple(each.detach() for each in state) for state in past.states)
    return replace(past, states=states)


def _open_module(checkpoint: AnyCheckpoint) -> tuple[LearningModule, bool]:
    """Return the module, and whether what it has read can be carried on to the next chunk."""
    if isinstance(checkpoint, Checkpoint):
        return Module(checkpoint), True
    # Only here: transformers is an extra, and takes seconds to load.
    from fluvial.model.fallback import Fallback

    return Fallback(checkpoint), False
