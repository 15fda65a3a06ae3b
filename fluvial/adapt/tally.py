"""How a session has read since its last version, against the frozen base: losses, and a jump."""

from dataclasses import dataclass

JUMP = 1.1
"""A state that reads worse than the frozen base by more than this factor is not kept."""
JUMP_TOKENS = 512
"""Over how many tokens at least."""


@dataclass(eq=False)
class Tally:
    """Sums of losses in nats over the chunks learned from; `first_*`: those of the first chunk.

    The first chunk is read by the version before, all others by what it became.
    """

    tokens: int = 0
    adapted_nats: float = 0.0
    frozen_nats: float = 0.0
    first_adapted_nats: float = 0.0
    first_frozen_nats: float = 0.0

    def add(self, *, tokens: int, adapted_nats: float, frozen_nats: float) -> None:
        if not self.tokens:
            self.first_adapted_nats, self.first_frozen_nats = adapted_nats, frozen_nats
        self.tokens += tokens
        self.adapted_nats += adapted_nats
        self.frozen_nats += frozen_nats

    @property
    def jumped(self) -> bool:
        """Whether the loss was far over the base's."""
        enough = self.tokens >= JUMP_TOKENS
        return enough and self.adapted_nats > JUMP * self.frozen_nats

    @property
    def began_so(self) -> bool:
        """Whether it was so from the beginning: the version before is no better."""
        return self.first_adapted_nats > JUMP * self.first_frozen_nats

    @property
    def excess(self) -> float:
        """By how much of the base's loss its own was over that."""
        return self.adapted_nats / self.frozen_nats - 1
