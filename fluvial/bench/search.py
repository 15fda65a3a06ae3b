"""Find the settings with which one side is fastest, by trying them: counting cores misleads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Settings = dict[str, Any]
ALL_UP_TO = 8


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One combination of settings, and the tokens a second it gave."""

    settings: Settings
    tps: float


def search(
    options: Mapping[str, Sequence[Any]], *, measure: Callable[[Settings], float]
) -> tuple[Settings, list[Trial]]:
    """Try the values of one option after another, each time keeping the best so far.

    `options` gives each setting its values, the first of them the one to begin with; `measure`
    returns tokens a second. No combination is measured twice. Returns the best settings, and all
    trials in their order.
    """
    best: Settings = {name: values[0] for name, values in options.items()}
    trials = [Trial(settings=best, tps=measure(best))]
    for name, values in options.items():
        for value in values[1:]:
            settings = {**best, name: value}
            if any(trial.settings == settings for trial in trials):
                continue
            trials.append(Trial(settings=settings, tps=measure(settings)))
        best = max(trials, key=lambda trial: trial.tps).settings
    return best, trials


def list_thread_counts(cores: int) -> list[int]:
    """Return all counts up to 8 cores; beyond, the powers of two and the number of cores too."""
    counts = set(range(1, min(cores, ALL_UP_TO) + 1)) | {cores}
    power = 2 * ALL_UP_TO
    while power < cores:
        counts.add(power)
        power *= 2
    return sorted(counts, reverse=True)
