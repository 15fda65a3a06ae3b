"""Which chunks are learned from: those of a share, and those that surprise."""

import math
from dataclasses import dataclass

from fluvial.adapt.rule import Rule

GATE_DECAY = 0.9


@dataclass(eq=False)
class Gate:
    """Counts a session's chunks since its last version, and follows their losses."""

    mean_nats: float | None = None
    turns: int = 0

    def choose(self, rule: Rule, mean_nats: float) -> bool:
        """Return whether the next chunk is to be learned from; `mean_nats`: its loss a token."""
        turn, share = self.turns, rule.share
        self.turns += 1
        surprising = self._is_surprising(rule, mean_nats)
        return surprising and math.floor(turn * share) > math.floor((turn - 1) * share)

    def _is_surprising(self, rule: Rule, mean_nats: float) -> bool:
        before = self.mean_nats
        if before is None:
            self.mean_nats = mean_nats
            return True
        self.mean_nats = GATE_DECAY * before + (1 - GATE_DECAY) * mean_nats
        return mean_nats >= rule.gate * before
