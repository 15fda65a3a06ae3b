"""What a session has read since its last version: how much, what text, and how it read before."""

import hashlib
import math

from fluvial.adapt.rule import ChunkResult


class Unsaved:
    """Counts chunks that were learned from, left out by the gate, or taken back."""

    def __init__(self) -> None:
        self.tokens = self.updates = self.skipped = 0
        self._bytes = 0
        self._adapted_nats = self._frozen_nats = 0.0
        self._digest = hashlib.sha256()

    def add(self, data: bytes, *, tokens: int, result: ChunkResult, frozen_nats: float) -> None:
        """Note one chunk; `data` are the bytes of its text."""
        self.tokens += tokens
        self.updates += result.learned
        self.skipped += result.skipped
        self._bytes += len(data)
        self._adapted_nats += result.adapted_nats
        self._frozen_nats += frozen_nats
        self._digest.update(data)

    @property
    def text_sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def adapted_bpb(self) -> float | None:
        """Bits per byte under the adapter, before each chunk was learned from."""
        return self._measure_bpb(self._adapted_nats)

    @property
    def frozen_bpb(self) -> float | None:
        """Bits per byte under the frozen base."""
        return self._measure_bpb(self._frozen_nats)

    def _measure_bpb(self, nats: float) -> float | None:
        return nats / math.log(2) / self._bytes if self._bytes and math.isfinite(nats) else None
