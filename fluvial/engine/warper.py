"""Which tokens stay in the draw: top-k, top-p, min-p and typical, without sorting everything."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fluvial.types import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_NUCLEUS_WIDTHS = (4.0, 7.0, 11.0)
_TYPICAL_WIDTHS = (0.5, 1.0, 2.0, 4.0)
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def keep(logits: Floats, *, sampling: Sampling) -> Ids | None:
    """Return the places in `logits` that stay in the draw, ascending; None when all do.

    Each step sees only what the one before left, as the warpers of `transformers` do.
    """
    heat = sampling.temperature
    steps: list[Callable[[Floats], Ids]] = []
    if 0 < sampling.top_k < len(logits):
        steps.append(lambda left: keep_top_k(left, count=sampling.top_k))
    if sampling.top_p < 1:
        steps.append(lambda left: keep_top_p(left, temperature=heat, mass=sampling.top_p))
    if sampling.min_p > 0:
        steps.append(lambda left: keep_min_p(left, temperature=heat, share=sampling.min_p))
    if sampling.typical_p < 1:
        steps.append(lambda left: keep_typical(left, temperature=heat, mass=sampling.typical_p))
    kept: Ids | None = None
    for step in steps:
        left = logits if kept is None else logits[kept]
        kept = step(left) if kept is None else kept[step(left)]
    return kept


def weigh(logits: Floats, *, temperature: float, peak: np.float32 | None = None) -> Floats:
    """Return unnormalised probabilities: 1 for the highest logit, or for `peak`."""
    highest: np.float32 = logits.max() if peak is None else peak
    with np.errstate(over="ignore", under="ignore"):
        return np.exp((logits - highest) * np.float32(min(1 / temperature, _FLOAT32_MAX)))


def keep_top_k(logits: Floats, *, count: int) -> Ids:
    """Keep the `count` highest; among equals the lower id goes first."""
    if count >= len(logits):
        return np.arange(len(logits))
    border = np.partition(logits, len(logits) - count)[len(logits) - count]
    return _select_highest(logits, count=count, border=border)


def keep_top_p(logits: Floats, *, temperature: float, mass: float) -> Ids:
    """Keep the nucleus: the fewest most probable tokens whose mass is at least `mass`.

    Exact, yet sorts only the few logits near the peak: those over a threshold come first in the
    whole order, so the nucleus lies in them as soon as their mass suffices.
    Source: Holtzman et al. 2020, section 3.1.
    """
    peak = logits.max()
    wanted = mass * float(weigh(logits, temperature=temperature).sum(dtype=np.float64))
    ranked, masses = np.zeros(0, np.float32), np.zeros(1, np.float64)
    for width in (*_NUCLEUS_WIDTHS, math.inf):
        if masses[-1] >= wanted:
            break
        ranked = np.sort(logits[logits >= float(peak) - width * temperature])[::-1]
        steps = weigh(ranked, temperature=temperature, peak=peak)
        masses = np.cumsum(steps, dtype=np.float64)
    count = min(int(np.searchsorted(masses, wanted, side="left")) + 1, len(ranked))
    return _select_highest(logits, count=count, border=ranked[count - 1])


def keep_min_p(logits: Floats, *, temperature: float, share: float) -> Ids:
    """Keep what is at least `share` times as probable as the most probable token.

    Source: Nguyen et al. 2024, "Min-p sampling", section 3.
    """
    border = float(logits.max()) + math.log(share) * temperature
    return np.flatnonzero(logits >= border)


def keep_typical(logits: Floats, *, temperature: float, mass: float) -> Ids:
    """Keep the tokens whose information is nearest to the entropy, up to a mass of `mass`.

    Source: Meister et al. 2022, "Locally typical sampling", section 3.
    """
    shares = weigh(logits, temperature=temperature).astype(np.float64)
    shares /= shares.sum()
    with np.errstate(divide="ignore"):
        information = -np.log(shares)
    entropy = float((shares * np.where(shares > 0, information, 0)).sum())
    distances = np.abs(information - entropy)
    near = np.arange(0)
    for width in (*_TYPICAL_WIDTHS, math.inf):
        near = np.flatnonzero(distances <= width)
        if shares[near].sum() >= mass:
            break
    order = near[np.argsort(distances[near], kind="stable")]
    count = int(np.searchsorted(np.cumsum(shares[order]), mass, side="left")) + 1
    return np.sort(order[:count])


def rank_highest(logits: Floats, *, count: int) -> Ids:
    """Return the places of the `count` highest, the highest first, of equals the lower id first."""
    if count == 0:
        return np.arange(0)
    places = keep_top_k(logits, count=count)
    return places[np.argsort(-logits[places], kind="stable")]


def _select_highest(logits: Floats, *, count: int, border: np.float32) -> Ids:
    """Return the ids, in order, of the `count` highest logits; `border` is the lowest of them."""
    ids = np.flatnonzero(logits >= border)
    ties = np.flatnonzero(logits[ids] == border)
    surplus = len(ids) - count
    return np.delete(ids, ties[len(ties) - surplus :])
