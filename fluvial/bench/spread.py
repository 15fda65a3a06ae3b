"""Say what several rounds of one measurement came to: the median, and how far they lie apart."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The rounds of one figure. `iqr` is the distance between the first and third quartile."""

    median: float
    min: float
    max: float
    iqr: float
    rounds: int

    def to_json(self) -> dict[str, float]:
        """Return the fields, rounded for people."""
        figures = {"min": self.min, "max": self.max, "iqr": self.iqr}
        return {**{name: round(value, 4) for name, value in figures.items()}, "rounds": self.rounds}


def summarise(values: Sequence[float]) -> Spread:
    """Summarise at least one value; with fewer than two, all lie in one place."""
    if not values:
        raise ValueError("no round was measured")
    low, high = values[0], values[0]
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(
        median=statistics.median(values),
        min=min(values),
        max=max(values),
        iqr=high - low,
        rounds=len(values),
    )
