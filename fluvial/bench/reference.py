"""The float32 module as a side: what `transformers` computes on the same dequantised weights.

A test holds the module to `transformers`; here it spares loading both.
"""

from pathlib import Path

from fluvial.adapt.rule import Rule
from fluvial.config import load
from fluvial.model.checkpoint import open_checkpoint


class Reference:
    """A PyTorch module in this process; it scores, and does nothing else."""

    def __init__(self, path: str, *, threads: int) -> None:
        from fluvial.adapt.learner import Learner  # loads torch, for which only this side has a use

        self._learner = Learner(open_checkpoint(Path(path)), rule=Rule.from_settings(load()))
        self._learner.use_threads(threads)

    def score(self, windows: list[list[int]]) -> list[list[float]]:
        """Return the loss in nats of each window's tokens but the first."""
        return [self._learner.score(window[:1], window[1:]) for window in windows]
