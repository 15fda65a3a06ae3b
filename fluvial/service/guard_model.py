"""A guard model on an engine of its own, beside the one that is served."""

from collections.abc import Sequence
from typing import final

from fluvial.config import Settings
from fluvial.engine.engine import Engine
from fluvial.errors import GuardError
from fluvial.guard.policy import ModelProvider
from fluvial.guard.provider_model import VERDICT_TOKENS
from fluvial.types import Message, Sampling

MOST_CACHE_BYTES = 2**28
LANE = "guard"


@final
class EngineWriter:
    """Lets an engine write a guard model's verdicts. Safe to call from any thread."""

    def __init__(self, engine: Engine, *, sha256: str) -> None:
        """Write with `engine`; `sha256` names its checkpoint."""
        self._engine = engine
        self.sha256 = sha256

    def write(self, messages: Sequence[Message]) -> str:
        """Return the verdict; see `Writer`."""
        generation = self._engine.generate(messages, sampling=Sampling(temperature=0), lane=LANE)
        deltas = list(generation)
        if not deltas or deltas[-1].finish != "stop":
            raise GuardError("the guard model did not end its verdict")
        return "".join(delta.text for delta in deltas)

    def close(self) -> None:
        """End the engine."""
        self._engine.close()


def fit_settings(settings: Settings, provider: ModelProvider) -> Settings:
    """Return the settings that a guard model's engine runs with: a small one, nothing on disk."""
    changes = {
        "model": provider.model,
        "context_tokens": provider.context_tokens,
        "answer_tokens": VERDICT_TOKENS,
        "cache_bytes": min(settings.cache_bytes, MOST_CACHE_BYTES),
        "cache_disk_bytes": 0,
    }
    return settings.model_copy(update=changes)
