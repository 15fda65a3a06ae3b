"""How a learner moves an adapter: the settings of one update rule, and what it answers."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from fluvial.config import Settings
from fluvial.model.adapter import Adaptable
from fluvial.types import Unlearned

Method = Literal["adam", "normed", "sign", "muon"]
METHODS: tuple[Method, ...] = get_args(Method)
Place = tuple[str, int]
"""Where a chunk begins: the reading, and how many of its tokens come before."""
STATE_BYTES = 3_000_000
"""Most that a version takes on disk where the rank is chosen for the model."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Score first, then one step on the mean loss of each chunk.

    `method`: what is made of a gradient (`step.py`). `rank` of every low-rank term. B makes the
    change in weights, and weights differ in size from model to model: its rate is `weight_rate`
    times the root mean square norm of the base weights' rows, layer by layer. `learn_a` and
    `learn_gains`: whether A and the gains move too, at `learning_rate`; else A stays as `seed`
    drew it. Gradients are clipped to norm `clip`. Each step takes the share `decay`
    off B and the gains, which pulls them back to the base.

    Text is read in windows of `stride_tokens`, each behind the first token of all and the last
    `overlap_tokens` of what came before, and learned from in chunks of `chunk_tokens`. Chunks under
    `min_tokens` are scored but not learned from: a full step on so little evidence does more harm
    than good. `gate`: chunks are left out whose loss is under so many times the running mean (0:
    none are). `share` of the chunks are learned from, evenly, the others left out. `depth`: the
    share of the layers, from the last one down, that learn.
    """

    method: Method = "adam"
    rank: int = 8
    learning_rate: float = 3e-3
    weight_rate: float = 6.4e-4
    learn_a: bool = True
    learn_gains: bool = True
    clip: float = 1.0
    decay: float = 0.0
    seed: int = 0
    overlap_tokens: int = 128
    stride_tokens: int = 512
    chunk_tokens: int = 256
    min_tokens: int = 32
    gate: float = 0.0
    share: float = 1.0
    depth: float = 1.0

    @staticmethod
    def from_settings(settings: Settings, declaration: Adaptable | None = None) -> "Rule":
        """Return the rule that the settings say; `declaration` decides the rank left to choose."""
        return Rule(
            method=settings.rule,
            rank=settings.rank or choose_rank(declaration),
            learning_rate=settings.learning_rate,
            weight_rate=settings.weight_rate,
            learn_a=settings.learn_a,
            learn_gains=settings.learn_gains,
            decay=settings.decay,
            overlap_tokens=settings.overlap_tokens,
            stride_tokens=settings.stride_tokens,
            chunk_tokens=settings.chunk_tokens,
            gate=settings.gate,
            share=settings.share,
            depth=settings.depth,
        )

    @property
    def window_tokens(self) -> int:
        """The longest window."""
        return self.overlap_tokens + self.stride_tokens

    def fit(self, positions: int) -> "Rule":
        """Return the rule with windows of at most so many tokens, 64 or more."""
        overlap_tokens = min(self.overlap_tokens, positions // 4)
        stride_tokens = min(self.stride_tokens, positions - overlap_tokens - 1)
        chunk_tokens = min(self.chunk_tokens, stride_tokens)
        return replace(
            self,
            overlap_tokens=overlap_tokens,
            stride_tokens=stride_tokens,
            chunk_tokens=chunk_tokens,
        )

    def trains(self, name: str) -> bool:
        """Whether this tensor of an adapter moves."""
        kind = name.rpartition(".")[2]
        return kind == "b" or (self.learn_a if kind == "a" else self.learn_gains)

    def to_json(self) -> str:
        """Return the rule in its canonical form, of which versions are named."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))


def choose_rank(declaration: Adaptable | None) -> int:
    """Return the greatest power of two, up to 8, whose B fits STATE_BYTES in float16."""
    if declaration is None:
        return 8
    outputs = sum(group.outputs for layer in declaration.layers for group in layer.groups)
    return next((rank for rank in (8, 4, 2) if 2 * rank * outputs <= STATE_BYTES), 1)


@dataclass(frozen=True, kw_only=True)
class Read:
    """One session's next chunk, to be scored and perhaps learned from (`Learner.read`)."""

    session: str
    context: Sequence[int]
    chunk: Sequence[int]
    learn: bool
    compare: bool = True
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What reading one chunk found: losses in nats summed over its tokens, before any update.

    `frozen_nats` is None where it was not asked for. `skipped`: the gate left the chunk out;
    `restored`: something was not finite, and the state is that of the last version again.
    """

    adapted_nats: float
    frozen_nats: float | None
    learned: bool
    skipped: bool = False
    restored: bool = False

    def tell_reason(self, *, asked: bool) -> Unlearned:
        """Tell why the chunk was not learned from, if it was `asked` for; "" where it was."""
        if self.learned:
            return ""
        if not asked:
            return "frozen"
        if self.skipped:
            return "unsurprising"
        return "not_finite" if self.restored else "short"


def keep_last(context: Sequence[int], tokens: int) -> Sequence[int]:
    """Return what begins a window: the first token, which models lean on, and the last ones."""
    return context if len(context) <= tokens + 1 else [context[0], *context[-tokens:]]
