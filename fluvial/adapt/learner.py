"""Turn tokens that were read into the next state of a session's adapter; nothing else trains.

Score first, single pass: the forward pass whose losses are reported is the one that is learned
from, so no score has ever seen its own chunk. Base weights are never written to; the state is
float32 throughout, and what is settled (made a version) is a function of the text, the rule and the
version before alone: windows and the rule's memory begin anew there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fluvial.adapt.bounding import Settlement, scale_tensors
from fluvial.adapt.drift import Probe, settle
from fluvial.adapt.live import Live
from fluvial.adapt.rule import ChunkResult, Place, Rule, keep_last
from fluvial.adapt.step import Memory, Pace, take_step
from fluvial.adapt.tally import Tally
from fluvial.adapt.tracer import ComputedTracer, RecordedTracer, Tracer
from fluvial.model.adapter import Tensors, create_tensors
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.opening import AnyCheckpoint
from fluvial.types import ChunkNotFinite, ReadsWorse, VersionNote

GATE_DECAY = 0.9
SCORED_AT_ONCE = 256


@dataclass(eq=False)
class _Window:
    """A side's open window, and the place that continues it."""

    inner: Any
    next: Place
    tokens: int = 0


@dataclass(eq=False)
class _Session:
    """One session's live adapter, its rule's memory, its windows, and its losses since settled."""

    live: Live
    memory: Memory = field(default_factory=Memory)
    windows: dict[str, _Window] = field(default_factory=dict)
    mean_nats: float | None = None
    turns: int = 0
    tally: Tally = field(default_factory=Tally)
    restored: bool = False


class Learner:
    """Holds a checkpoint and the live adapters of the sessions that read."""

    def __init__(
        self,
        checkpoint: AnyCheckpoint,
        *,
        rule: Rule,
        graph_dir: Path | None = None,
        positions: int = 4096,
        probe: Sequence[int] = (0, 1),
        drift_budget: float = float("inf"),
        most_windows: int = 1,
    ) -> None:
        """Read with the engine, its graph below `graph_dir`; None: in float32, slower.

        `positions`: how long the graph's sequences may be, if it must be built. `probe`: tokens on
        which drift is measured; `drift_budget` in nats a token. `most_windows`: how many times as
        long as the rule's the windows of `score` may be.
        """
        self._declaration = checkpoint.declaration
        self._rule = rule
        self._tracer: Tracer
        if graph_dir is not None and isinstance(checkpoint, Checkpoint):
            self._tracer = RecordedTracer(
                checkpoint,
                graph_dir=graph_dir,
                positions=positions,
                window_tokens=max(most_windows * rule.window_tokens + 1, len(probe)),
            )
        else:
            self._tracer = ComputedTracer(checkpoint)
        self._probe = Probe(probe, self._tracer)
        self._budget = drift_budget
        self._basis: Tensors = {}
        self._sessions: dict[str, _Session] = {}

    def use_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""
        self._tracer.use_threads(threads)

    @property
    def rule(self) -> Rule:
        """The rule that sessions learn by."""
        return self._rule

    @property
    def measure_inputs(self) -> Callable[[Sequence[int]], Mapping[str, NDArray[np.float32]]] | None:
        """What tells the inputs of each linear for a text, [s, i]; None where nothing can."""
        return self._tracer.measure_inputs if isinstance(self._tracer, RecordedTracer) else None

    def stand_on(self, basis: Tensors) -> None:
        """Let sessions that start from the base have these first factors."""
        self._basis = basis

    def load(self, session: str, tensors: Tensors | None) -> None:
        """Start or restart a session from `tensors` (None: the base)."""
        self.drop(session)
        if tensors is None:
            rule = self._rule
            tensors = create_tensors(self._declaration, rank=rule.rank, seed=rule.seed)
            tensors |= self._basis
        self._sessions[session] = _Session(Live(tensors, rule=self._rule))

    def drop(self, session: str) -> None:
        """Forget a session's live state; unknown sessions are fine."""
        state = self._sessions.pop(session, None)
        if state is not None:
            self._close_windows(state)

    def export(self, session: str) -> dict[str, NDArray[np.float32]]:
        """Copy out a session's adapter as it is now."""
        return self._sessions[session].live.export()

    def read(
        self,
        session: str,
        *,
        context: Sequence[int],
        chunk: Sequence[int],
        learn: bool,
        compare: bool = True,
        place: Place | None = None,
    ) -> ChunkResult:
        """Score `chunk` after `context` (at least one token), then learn from it if `learn`.

        `context` begins with the token that begins a text; of the others, only the last count.
        Where `place` follows the chunk before and the window has room, the window goes on, and
        nothing of `context` is read. With `compare`, the frozen base is scored on the same window
        too. An update whose loss or gradient is not finite is left out: the state is then that of
        the last version again, and the score is its.
        """
        state = self._sessions[session]
        learn = learn and len(chunk) >= self._rule.min_tokens
        frozen = None
        if compare:
            frozen = float(self._score(state, "frozen", context, chunk, place).sum())
        adapted = float(self._score(state, "adapted", context, chunk, place).sum())
        learned, skipped = self._learn(state, adapted, len(chunk), learn=learn)
        restored = learn and not (learned or skipped)
        if restored:
            self._restart(state)
            state.live.go_back()
            state.restored = True
            if not np.isfinite(adapted):
                adapted = float(self._score(state, "adapted", context, chunk, place).sum())
                self._tracer.skip(state.windows["adapted"].inner)
        elif learn and frozen is not None:
            state.tally.add(tokens=len(chunk), adapted_nats=adapted, frozen_nats=frozen)
        return ChunkResult(
            adapted_nats=adapted,
            frozen_nats=frozen,
            learned=learned,
            skipped=skipped,
            restored=restored,
        )

    def read_frozen(
        self, session: str, *, context: Sequence[int], chunk: Sequence[int], place: Place
    ) -> float:
        """Score `chunk` with the frozen base alone, in windows as `read` does; nats, summed."""
        return float(self._score(self._sessions[session], "frozen", context, chunk, place).sum())

    def restart(self, session: str) -> None:
        """Let a session's windows begin anew, and its rule's memory."""
        self._restart(self._sessions[session])

    def settle(self, session: str) -> Settlement:
        """Make the live state fit to be a version (`drift.settle`); windows begin anew after it."""
        state = self._sessions[session]
        scale, notes = _go_back_from_jump(state)
        settled = settle(state.live, self._probe, budget=self._budget)
        if state.restored:
            notes = (ChunkNotFinite(),)
        self._restart(state)
        notes = (*notes, *settled.notes)
        return Settlement(drift=settled.drift, scale=scale * settled.scale, notes=notes)

    def score(
        self,
        context: Sequence[int],
        chunk: Sequence[int],
        *,
        tensors: Tensors | None = None,
        windows: int = 1,
        on_tokens: Callable[[int], None] = lambda done: None,
    ) -> list[float]:
        """Return the loss on each token of `chunk` after `context`, in nats, under an adapter.

        The chunk is cut where windows end (`Rule`), these being `windows` times as long; `tensors`
        None: the frozen base. `on_tokens` is told how many are done.
        """
        live = None if tensors is None else Live(tensors, rule=self._rule)
        text, begin = [*context, *chunk], len(context)
        stride = windows * self._rule.stride_tokens
        overlap = windows * self._rule.overlap_tokens
        nats: list[float] = []
        with torch.no_grad():
            for start in range(begin, len(text), stride):
                window = self._tracer.open(keep_last(text[:start], overlap), live, learns=False)
                for at in range(start, min(start + stride, len(text)), SCORED_AT_ONCE):
                    end = min(at + SCORED_AT_ONCE, start + stride)
                    nats += self._tracer.score(window, text[at:end], live).tolist()
                    self._tracer.skip(window)
                    on_tokens(len(nats))
                self._tracer.close(window)
        return nats

    def measure_drift(self, tensors: Tensors) -> float:
        """Return the divergence of an adapter from the base on the probe, nats a token."""
        return self._probe.measure(Live(tensors, rule=self._rule))

    def _score(
        self,
        state: _Session,
        side: str,
        context: Sequence[int],
        chunk: Sequence[int],
        place: Place | None,
    ) -> NDArray[np.float32]:
        live = state.live if side == "adapted" else None
        window = state.windows.get(side)
        full = window is not None and window.tokens + len(chunk) > self._rule.stride_tokens
        if window is None or place is None or window.next != place or full:
            self._close_window(state, side)
            kept = keep_last(context, self._rule.overlap_tokens)
            inner = self._tracer.open(kept, live, learns=live is not None)
            window = state.windows[side] = _Window(inner, ("", 0))
        nats = self._tracer.score(window.inner, chunk, live)
        window.tokens += len(chunk)
        window.next = ("", 0) if place is None else (place[0], place[1] + len(chunk))
        return nats

    def _learn(
        self, state: _Session, nats: float, tokens: int, *, learn: bool
    ) -> tuple[bool, bool]:
        """Learn from the chunk just scored; return whether it was, and whether the gate skipped."""
        window = state.windows["adapted"].inner
        finite = bool(np.isfinite(nats))
        skipped = learn and finite and not self._choose(state, nats / tokens)
        if skipped or not (learn and finite):
            self._tracer.skip(window)
            return False, skipped
        self._tracer.differentiate(window, state.live)
        return self._update(state, share=tokens), False

    def _choose(self, state: _Session, mean_nats: float) -> bool:
        """Return whether a chunk is to be learned from, by its turn and by the gate."""
        turn, share = state.turns, self._rule.share
        state.turns += 1
        surprising = self._is_surprising(state, mean_nats)
        return surprising and math.floor(turn * share) > math.floor((turn - 1) * share)

    def _is_surprising(self, state: _Session, mean_nats: float) -> bool:
        before = state.mean_nats
        if before is None:
            state.mean_nats = mean_nats
            return True
        state.mean_nats = GATE_DECAY * before + (1 - GATE_DECAY) * mean_nats
        return mean_nats >= self._rule.gate * before

    @torch.no_grad()
    def _update(self, state: _Session, *, share: int) -> bool:
        # Steps don't shrink with the evidence, so a short chunk gets one in proportion.
        part = min(1.0, share / self._rule.chunk_tokens)
        kept = 1 - part * self._rule.decay
        paces = {  # of A nothing decays: the base has none of the others
            name: Pace(part * self._choose_rate(name), 1.0 if name.endswith(".a") else kept)
            for name in state.live.trained
        }
        moved = take_step(
            self._rule.method,
            state.live.trained,
            state.memory,
            paces=paces,
            clip=self._rule.clip,
            native=isinstance(self._tracer, RecordedTracer),
        )
        if moved:
            state.live.touch()
        return moved

    def _choose_rate(self, name: str) -> float:
        group, _, kind = name.rpartition(".")
        if kind != "b":
            return self._rule.learning_rate
        layer, name = group.removeprefix("layers.").split(".", 1)
        outputs = next(
            each.outputs
            for each in self._declaration.layers[int(layer)].groups
            if each.name == name
        )
        return self._rule.weight_rate * self._tracer.norms[group] / outputs**0.5

    def _restart(self, state: _Session) -> None:
        """Forget all but the live tensors: what follows depends on them and the text alone."""
        self._close_windows(state)
        state.memory, state.mean_nats, state.turns, state.tally = Memory(), None, 0, Tally()
        state.restored = False

    def _close_windows(self, state: _Session) -> None:
        for side in [*state.windows]:
            self._close_window(state, side)

    def _close_window(self, state: _Session, side: str) -> None:
        window = state.windows.pop(side, None)
        if window is not None:
            self._tracer.close(window.inner)


def _go_back_from_jump(state: _Session) -> tuple[float, tuple[VersionNote, ...]]:
    """Leave a state that reads far worse than the base; return what is left of it, and why.

    A version before that read no better is halved: else nothing could be learned over it any more.
    """
    tally = state.tally
    if not tally.jumped:
        return 1.0, ()
    state.live.go_back()
    if not tally.began_so:
        return 1.0, (ReadsWorse(excess=tally.excess),)
    state.live.set(scale_tensors(state.live.export(), 0.5))
    return 0.5, (ReadsWorse(excess=tally.excess, halved=True),)
