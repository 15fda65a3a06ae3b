"""How a learner moves an adapter: the settings of one update rule, and what an update answers."""

from dataclasses import dataclass

from fluvial.config import Settings


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Score first, then one Adam step on the mean loss of each chunk.

    `rank` of every low-rank term. `learning_rate` moves A and the gains, whose sizes are alike in
    all models. B makes the change in weights, and weights differ in size from model to model: its
    rate is `weight_rate` times the root mean square norm of the base weights' rows, layer by layer.
    Gradients are clipped to norm `clip`; `seed` draws A. `window_tokens` precede each chunk of
    `chunk_tokens`. Chunks under `min_tokens` are scored but not learned from: a full step on so
    little evidence does more harm than good.
    """

    rank: int = 8
    learning_rate: float = 3e-3
    weight_rate: float = 6.4e-4
    clip: float = 1.0
    seed: int = 0
    window_tokens: int = 256
    chunk_tokens: int = 256
    min_tokens: int = 32

    @staticmethod
    def from_settings(settings: Settings) -> "Rule":
        return Rule(
            rank=settings.rank,
            learning_rate=settings.learning_rate,
            weight_rate=settings.weight_rate,
            window_tokens=settings.window_tokens,
            chunk_tokens=settings.chunk_tokens,
        )


@dataclass(frozen=True, kw_only=True)
class ChunkResult:
    """What reading one chunk found: losses in nats summed over its tokens, before any update.

    `frozen_nats` is None where it was not asked for.
    """

    adapted_nats: float
    frozen_nats: float | None
    learned: bool
    drift: float
