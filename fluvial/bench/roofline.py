"""The limit that memory sets: a token needs all weights once, so bytes read bound tokens a second.

NumPy's own loops read as fast as hand-written C here; each thread sums its part of one array that
is much larger than any cache.
"""

import threading
import time

import numpy as np
from numpy.typing import NDArray

from fluvial.model.checkpoint import Checkpoint

ARRAY_BYTES = 2**30
_ROUNDS = 5


class Reading:
    """Memory as a side: it can only be read."""

    def measure(self, *, threads: int, array_bytes: int) -> float:
        """Return `measure_reading` of the same arguments."""
        return measure_reading(threads=threads, array_bytes=array_bytes)


def measure_reading(*, threads: int, array_bytes: int = ARRAY_BYTES) -> float:
    """Return how many GB (10^9 bytes) a second `threads` threads read: the best of five rounds."""
    array = np.ones(max(threads, array_bytes // 8), np.uint64)
    parts = np.array_split(array, threads)
    best_s = min(_read_all(parts) for _ in range(_ROUNDS))
    return array.nbytes / best_s / 1e9


def count_bytes(checkpoint: Checkpoint) -> int:
    """Count the bytes of the model's file that one token needs at least: every weight, once.

    Of an embedding that is no output layer, only a row is read; it is left out.
    """
    tied = checkpoint.declaration.tied_head
    return sum(
        weight.blocks.nbytes
        for name, weight in checkpoint.weights.items()
        if name != "embedding" or tied
    )


def _read_all(parts: list[NDArray[np.uint64]]) -> float:
    threads = [threading.Thread(target=np.bitwise_or.reduce, args=(part,)) for part in parts]
    begun_s = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun_s
