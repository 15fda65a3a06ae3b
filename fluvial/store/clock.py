"""A wall clock that never gives the same time twice, so that times are also an order."""

import threading
import time
from typing import final

_STEP_S = 1e-6


@final
class Clock:
    """Gives strictly increasing times, also when the machine's clock is set back. Thread-safe."""

    def __init__(self, *, after: float = 0.0) -> None:
        self._last_s = after
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return the seconds since the epoch, later than any time returned before."""
        with self._lock:
            self._last_s = max(time.time(), self._last_s + _STEP_S)
            return self._last_s
