"""Measured speed: how much of a prompt fits beside answers, and when a refused caller may retry."""

LEAST_PREFILL_TOKENS = 16
MAX_RETRY_S = 60.0
_WEIGHT = 0.2
"""Of the newest measurement in a running mean."""


class Pace:
    """Running means of what steps and answers take.

    While answers are being written, a step reads only as much of other prompts as takes about
    `target_s`, so that the answers keep flowing; with none being written it reads all it may.
    """

    def __init__(self, *, step_tokens: int, target_s: float = 0.25) -> None:
        self._step_tokens = step_tokens
        self._target_s = target_s
        self._token_s: float | None = None
        self._answer_s: float | None = None
        self._ended_s: float | None = None

    def prefill_tokens(self, *, decoding: bool) -> int:
        """Return how many tokens of prompts the next step may read."""
        if not decoding or not self._token_s:
            return self._step_tokens
        fitting = int(self._target_s / self._token_s)
        return min(self._step_tokens, max(LEAST_PREFILL_TOKENS, fitting))

    def count_step(self, *, tokens: int, elapsed_s: float) -> None:
        """Learn from a step. Short ones are left out: they say little about prompts."""
        if tokens >= LEAST_PREFILL_TOKENS:
            self._token_s = _blend(self._token_s, elapsed_s / tokens)

    def count_answer(self, now_s: float, *, waiting: int) -> None:
        """Learn from the end of an answer; only the time between two counts while others wait."""
        if self._ended_s is not None and waiting:
            self._answer_s = _blend(self._answer_s, now_s - self._ended_s)
        self._ended_s = now_s if waiting else None

    @property
    def retry_after_s(self) -> float:
        """Seconds until a place in the queue is likely to be free, 1 to 60."""
        return min(MAX_RETRY_S, max(1.0, self._answer_s or 0.0))


def _blend(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - _WEIGHT) * mean + _WEIGHT * value
