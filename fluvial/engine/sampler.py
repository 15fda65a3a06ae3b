"""Draws of the next token, and the one place where the ranges of `Sampling` are checked."""

import math
import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fluvial.errors import EngineError, InputError
from fluvial.types import Sampling

MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_CHARS = 256
_SEED_LIMIT = 2**63
_NUCLEUS_WIDTHS = (4.0, 7.0, 11.0)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def validate(sampling: Sampling) -> None:
    """Check all of `sampling`; raise InputError naming the field, the value and its range."""
    _require_number("temperature", sampling.temperature, low=0.0, high=MAX_TEMPERATURE)
    _require_number("top_p", sampling.top_p, low=0.0, high=1.0)
    if sampling.top_p == 0:
        raise InputError("top_p must be over 0 and at most 1, not 0", param="top_p")
    _require_integer("seed", sampling.seed, low=-_SEED_LIMIT, high=_SEED_LIMIT - 1)
    _require_integer("max_tokens", sampling.max_tokens, low=1, high=_SEED_LIMIT - 1)
    _validate_stops(sampling.stop)


def _require_number(name: str, value: Any, *, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise InputError(
            f"{name} must be a number from {low:g} to {high:g}, not {value!r}", param=name
        )


def _require_integer(name: str, value: Any, *, low: int, high: int) -> None:
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise InputError(
            f"{name} must be a whole number from {low} to {high}, not {value!r}", param=name
        )


def _validate_stops(stops: Any) -> None:
    if not isinstance(stops, tuple) or len(stops) > MAX_STOPS:
        raise InputError(
            f"stop must be a tuple of at most {MAX_STOPS} strings, not {reprlib.repr(stops)}",
            param="stop",
        )
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InputError(
                f"each stop string must have 1 to {MAX_STOP_CHARS} characters, unlike "
                f"{reprlib.repr(stop)}",
                param="stop",
            )


class Sampler:
    """Draws the tokens of one answer. The same seed and the same logits give the same tokens.

    Temperature 0 takes the most probable token. Otherwise one number of PCG64 is spent per token on
    the nucleus: the smallest set of most probable tokens whose mass is at least `top_p` (Holtzman
    et al. 2020, section 3.1). In both, the lower id goes first among equals.
    """

    def __init__(self, sampling: Sampling, vocab_size: int) -> None:
        """Prepare for logits of `vocab_size` tokens. `sampling` has passed `validate`."""
        seed = None if sampling.seed is None else sampling.seed % 2**64
        self._random = np.random.Generator(np.random.PCG64(seed))
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._vocab_size = vocab_size

    def draw(self, logits: NDArray[np.float32]) -> int:
        """Return a token id for `logits` (float32 [vocab]).

        Raises EngineError (code `bad_logits`) when they have another shape or aren't all finite.
        """
        self._check(logits)
        if self._temperature == 0:
            return int(np.argmax(logits))
        if self._top_p < 1:
            ids, weights = _nucleus(logits, temperature=self._temperature, top_p=self._top_p)
            return int(ids[self._pick(weights)])
        return self._pick(_weigh(logits, peak=logits.max(), temperature=self._temperature))

    def _check(self, logits: NDArray[np.float32]) -> None:
        if logits.shape != (self._vocab_size,):
            raise EngineError(
                f"the decoder gave logits of shape {logits.shape}; expected ({self._vocab_size},)",
                code="bad_logits",
            )
        if not np.isfinite(logits).all():
            raise EngineError(
                "the model's logits aren't all finite numbers: its file or what the session "
                "learned is damaged",
                code="bad_logits",
            )

    def _pick(self, weights: NDArray[np.float32]) -> int:
        """Return an index with a chance proportional to its weight."""
        mass = np.cumsum(weights, dtype=np.float64)
        index = np.searchsorted(mass, self._random.random() * mass[-1], side="right")
        return min(int(index), len(mass) - 1)


def _weigh(
    logits: NDArray[np.float32], *, peak: np.float32, temperature: float
) -> NDArray[np.float32]:
    """Return unnormalised probabilities: 1 for the peak."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp((logits - peak) * np.float32(min(1 / temperature, _FLOAT32_MAX)))


def _nucleus(
    logits: NDArray[np.float32], *, temperature: float, top_p: float
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the nucleus's ids, in their own order, and their weights.

    Exact, yet sorts only the few logits near the peak: those over a threshold come first in the
    whole order, so the nucleus lies in them as soon as their mass suffices.
    """
    peak = logits.max()
    weights = _weigh(logits, peak=peak, temperature=temperature)
    wanted = top_p * float(weights.sum(dtype=np.float64))
    ranked, mass = np.zeros(0, np.float32), np.zeros(1, np.float64)
    for width in (*_NUCLEUS_WIDTHS, math.inf):
        if mass[-1] >= wanted:
            break
        ranked = np.sort(logits[logits >= float(peak) - width * temperature])[::-1]
        steps = _weigh(ranked, peak=peak, temperature=temperature)
        mass = np.cumsum(steps, dtype=np.float64)
    count = min(int(np.searchsorted(mass, wanted, side="left")) + 1, len(ranked))
    ids = _select_highest(logits, count=count, border=ranked[count - 1])
    return ids, weights[ids]


def _select_highest(
    logits: NDArray[np.float32], *, count: int, border: np.float32
) -> NDArray[np.intp]:
    """Return the ids, in order, of the `count` highest logits; `border` is the lowest of them."""
    ids = np.flatnonzero(logits >= border)
    ties = np.flatnonzero(logits[ids] == border)
    surplus = len(ids) - count
    return np.delete(ids, ties[len(ties) - surplus :])
