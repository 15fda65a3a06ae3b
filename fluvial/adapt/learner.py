"""Turn tokens that were read into the next state of a session's adapter; nothing else trains.

Score first, single pass: the forward pass whose losses are reported is the one that is learned
from, so no score has ever seen its own chunk. Base weights are never written to; the state is
float32 throughout, and what is settled (made a version) is a function of the text, the rule and the
version before alone: windows and the rule's memory begin anew there.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fluvial.adapt.bounding import Settlement, scale_tensors
from fluvial.adapt.drift import Probe, settle
from fluvial.adapt.gate import Gate
from fluvial.adapt.live import Live
from fluvial.adapt.pace import choose_paces
from fluvial.adapt.rule import ChunkResult, Place, Read, Rule, keep_last
from fluvial.adapt.step import Memory, take_step
from fluvial.adapt.tally import Tally
from fluvial.adapt.tracer import Asked, ComputedTracer, RecordedTracer, Tracer
from fluvial.adapt.window import Windows, cut
from fluvial.errors import LearnerError
from fluvial.model.adapter import Tensors, create_tensors
from fluvial.model.basis import Basis
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.opening import AnyCheckpoint
from fluvial.version_note import ChunkNotFinite, ReadsWorse, VersionNote

SCORED_AT_ONCE = 256


@dataclass(eq=False)
class _Session:
    """One session's live adapter, its windows, its rule's memory, and its losses since settled."""

    live: Live
    windows: Windows
    memory: Memory = field(default_factory=Memory)
    gate: Gate = field(default_factory=Gate)
    tally: Tally = field(default_factory=Tally)
    restored: bool = False


@dataclass(eq=False)
class _Turn:
    """A chunk on its way: what is asked of the tracer, then what came of it. Losses in nats."""

    state: _Session
    read: Read
    learns: bool
    asked: list[Asked]
    adapted_nats: float = math.nan
    frozen_nats: float | None = None
    learned: bool = False
    skipped: bool = False

    @property
    def restored(self) -> bool:
        return self.learns and not (self.learned or self.skipped)

    def tell(self) -> ChunkResult:
        return ChunkResult(
            adapted_nats=self.adapted_nats,
            frozen_nats=self.frozen_nats,
            learned=self.learned,
            skipped=self.skipped,
            restored=self.restored,
        )


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
        self._leeways: Tensors = {}
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

    def stand_on(self, basis: Basis) -> None:
        """Let sessions that start from the base have its first factors, and all its leeways."""
        self._basis, self._leeways = basis.tensors, basis.leeways

    def measure_slopes(self, text: Sequence[int]) -> dict[str, NDArray[np.float32]]:
        """Return how much the base's mean loss on a text depends on each output, by group, [o].

        It is the mean square of the gradient of what B has for an output. At most a window's text.
        """
        live = self._start_live(replace(self._rule, depth=1.0))
        window = self._tracer.open(text[:1], live, learns=True)
        self._tracer.score_all([Asked(window, text[1:], live)])
        self._tracer.differentiate(window, live)
        self._tracer.close(window)
        return {
            name.removesuffix(".b"): each.grad.square().mean(dim=0).numpy()
            for name, each in live.trained.items()
            if name.endswith(".b") and each.grad is not None
        }

    def load(self, session: str, tensors: Tensors | None) -> None:
        """Start or restart a session from `tensors` (None: the base)."""
        self.drop(session)
        rule = self._rule
        live = self._start_live(rule) if tensors is None else Live(tensors, rule=rule)
        self._sessions[session] = _Session(live, Windows(self._tracer, rule=rule))

    def drop(self, session: str) -> None:
        """Forget a session's live state; unknown sessions are fine."""
        state = self._sessions.pop(session, None)
        if state is not None:
            state.windows.close()

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
        read = Read(
            session=session,
            context=context,
            chunk=chunk,
            learn=learn,
            compare=compare,
            place=place,
        )
        return self.read_all([read])[0]

    def read_all(self, reads: Sequence[Read]) -> list[ChunkResult]:
        """Read a chunk of each of several sessions, to the same bits as one after another.

        Raises LearnerError, before anything is read, where two are of one session or one is not
        loaded.
        """
        names = {read.session for read in reads}
        if len(names) < len(reads):
            raise LearnerError("of each session, one chunk can be read at a time")
        if unknown := sorted(names - self._sessions.keys()):
            raise LearnerError(f"session {', '.join(unknown)} is not loaded")
        return [result for batch in cut(reads) for result in self._read_batch(batch)]

    def read_frozen(
        self, session: str, *, context: Sequence[int], chunk: Sequence[int], place: Place
    ) -> float:
        """Score `chunk` with the frozen base alone, in windows as `read` does; nats, summed."""
        windows = self._sessions[session].windows
        asked = windows.ask(None, context=context, chunk=chunk, place=place)
        return float(self._tracer.score_all([asked])[0].sum())

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
                    nats += self._tracer.score_all([Asked(window, text[at:end], live)])[0].tolist()
                    self._tracer.skip(window)
                    on_tokens(len(nats))
                self._tracer.close(window)
        return nats

    def measure_drift(self, tensors: Tensors) -> float:
        """Return the divergence of an adapter from the base on the probe, nats a token."""
        return self._probe.measure(Live(tensors, rule=self._rule))

    def _start_live(self, rule: Rule) -> Live:
        drawn = create_tensors(self._declaration, rank=rule.rank, seed=rule.seed)
        return Live(drawn | dict(self._basis), rule=rule)

    def _read_batch(self, reads: Sequence[Read]) -> list[ChunkResult]:
        turns = [self._begin(read) for read in reads]
        self._score(turns)
        for turn in turns:
            self._learn(turn)
        # Only now: what is read again overwrites what the others learn from.
        return [self._end(turn) for turn in turns]

    def _begin(self, read: Read) -> _Turn:
        state = self._sessions[read.session]
        learns = read.learn and len(read.chunk) >= self._rule.min_tokens
        sides = (None, state.live) if read.compare else (state.live,)
        return _Turn(state, read, learns, [self._ask(state, read, side) for side in sides])

    def _ask(self, state: _Session, read: Read, live: Live | None) -> Asked:
        return state.windows.ask(live, context=read.context, chunk=read.chunk, place=read.place)

    def _score(self, turns: Sequence[_Turn]) -> None:
        """Score the windows of all in one step; the adapted side is each one's last."""
        losses = iter(self._tracer.score_all([asked for turn in turns for asked in turn.asked]))
        for turn in turns:
            nats = [float(next(losses).sum()) for _ in turn.asked]
            turn.adapted_nats = nats[-1]
            turn.frozen_nats = nats[0] if turn.read.compare else None

    def _learn(self, turn: _Turn) -> None:
        """Learn from the chunk just scored, unless it is not to be, or the gate skips it."""
        state, nats, tokens = turn.state, turn.adapted_nats, len(turn.read.chunk)
        learns = turn.learns and bool(np.isfinite(nats))
        turn.skipped = learns and not state.gate.choose(self._rule, nats / tokens)
        if turn.skipped or not learns:
            self._tracer.skip(state.windows["adapted"])
            return
        self._tracer.differentiate(state.windows["adapted"], state.live)
        turn.learned = self._update(state, tokens=tokens)

    def _end(self, turn: _Turn) -> ChunkResult:
        """Take back what was not finite, and tell what was found."""
        if turn.restored:
            self._take_back(turn)
        elif turn.learns and turn.frozen_nats is not None:
            turn.state.tally.add(
                tokens=len(turn.read.chunk),
                adapted_nats=turn.adapted_nats,
                frozen_nats=turn.frozen_nats,
            )
        return turn.tell()

    def _take_back(self, turn: _Turn) -> None:
        """Return to the version before, and read the chunk with that if it has no score yet."""
        state = turn.state
        self._restart(state)
        state.live.go_back()
        state.restored = True
        if not np.isfinite(turn.adapted_nats):
            asked = self._ask(state, turn.read, state.live)
            turn.adapted_nats = float(self._tracer.score_all([asked])[0].sum())
            self._tracer.skip(asked.window)

    @torch.no_grad()
    def _update(self, state: _Session, *, tokens: int) -> bool:
        paces = choose_paces(
            self._rule,
            state.live.trained,
            tokens=tokens,
            declaration=self._declaration,
            norms=self._tracer.norms,
            leeways=self._leeways,
        )
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

    def _restart(self, state: _Session) -> None:
        """Forget all but the live tensors: what follows depends on them and the text alone."""
        state.windows.close()
        state.memory, state.gate, state.tally = Memory(), Gate(), Tally()
        state.restored = False


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
