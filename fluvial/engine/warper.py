"""Which tokens stay in the draw: top-k, top-p, min-p and typical, without sorting everything.

A vocabulary has 150,000 tokens and this runs for each token of each sequence. So what is sorted is
a ring: the logits between a threshold that keeps too little and the next one, which keeps enough.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fluvial.types import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]

_NUCLEUS_WIDTHS = (2.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, math.inf)
_TYPICAL_WIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, math.inf)
_BLOCK = 256
_NO_MORE = 1e4
"""Information in nats beyond which a probability is 0 in any case."""
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


def weigh(logits: Floats, *, temperature: float) -> Floats:
    """Return unnormalised probabilities: 1 for the highest logit."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp((logits - logits.max()) * _scale(temperature))


def pick(weights: Floats, *, at: float) -> int:
    """Return the place where the cumulated weights pass the share `at` (in [0, 1)) of their sum.

    Never a place of no weight. Sums in blocks: the whole cumulation would be 20 times slower.
    """
    starts = np.arange(0, len(weights), _BLOCK)
    masses = np.cumsum(np.add.reduceat(weights, starts, dtype=np.float64))
    wanted = at * float(masses[-1])
    block = _pass(masses, wanted)
    before = float(masses[block - 1]) if block else 0.0
    inner = np.cumsum(weights[starts[block] : starts[block] + _BLOCK], dtype=np.float64)
    return int(starts[block]) + _pass(inner, wanted - before)


def keep_top_k(logits: Floats, *, count: int) -> Ids:
    """Keep the `count` highest; among equals the lower id goes first."""
    if count >= len(logits):
        return np.arange(len(logits))
    blocks = np.maximum.reduceat(logits, np.arange(0, len(logits), _BLOCK))
    near = logits
    if count <= len(blocks):
        # Each of so many blocks has a logit at least as high, so the border can't be lower.
        near = logits[logits >= np.partition(blocks, len(blocks) - count)[len(blocks) - count]]
    border = np.partition(near, len(near) - count)[len(near) - count]
    return _select_highest(logits, count=count, border=border)


def keep_top_p(logits: Floats, *, temperature: float, mass: float) -> Ids:
    """Keep the nucleus: the fewest most probable tokens whose mass is at least `mass`.

    Exact. Source: Holtzman et al. 2020, section 3.1.
    """
    weights = weigh(logits, temperature=temperature)
    wanted = mass * float(weights.sum(dtype=np.float64))
    peak, inner_mass, inner_count, ceiling = float(logits.max()), 0.0, 0, math.inf
    for width in _NUCLEUS_WIDTHS:
        floor = peak - width * temperature
        places = np.flatnonzero(logits >= floor)
        total = float(weights[places].sum(dtype=np.float64))
        if total >= wanted or width == math.inf:
            ring = logits[places]
            ring = np.sort(ring[ring < ceiling])[::-1]
            with np.errstate(over="ignore", under="ignore"):
                steps = np.exp((ring - logits.max()) * _scale(temperature))
            masses = inner_mass + np.cumsum(steps, dtype=np.float64)
            at = min(int(np.searchsorted(masses, wanted, side="left")), len(ring) - 1)
            return _select_highest(logits, count=inner_count + at + 1, border=ring[at])
        inner_mass, inner_count = total, len(places)
        if inner_count:
            ceiling = float(logits[places].min())
    raise AssertionError("the last width holds everything")


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
    with np.errstate(over="ignore", under="ignore"):
        depths = np.maximum((logits - logits.max()) * _scale(temperature), -np.float32(_NO_MORE))
        weights = np.exp(depths)
        total = float(weights.sum(dtype=np.float64))
        mean_depth = float((weights * depths).sum(dtype=np.float64)) / total
    # The information of a token less the entropy: the logarithm of the total is in both.
    distances = np.abs(depths - np.float32(mean_depth))
    wanted = mass * total
    near = np.arange(len(logits))
    for width in _TYPICAL_WIDTHS:
        near = np.flatnonzero(distances <= width)
        if float(weights[near].sum(dtype=np.float64)) >= wanted:
            break
    order = near[np.argsort(distances[near], kind="stable")]
    masses = np.cumsum(weights[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(masses, wanted, side="left")) + 1])


def rank_highest(logits: Floats, *, count: int) -> Ids:
    """Return the places of the `count` highest, the highest first, of equals the lower id first."""
    if count == 0:
        return np.arange(0)
    places = keep_top_k(logits, count=count)
    return places[np.argsort(-logits[places], kind="stable")]


def _scale(temperature: float) -> np.float32:
    return np.float32(min(1 / temperature, _FLOAT32_MAX))


def _pass(masses: NDArray[np.float64], wanted: float) -> int:
    """Return the first place over `wanted`; where rounding left none, the last of any weight."""
    place = int(np.searchsorted(masses, wanted, side="right"))
    return min(place, int(np.searchsorted(masses, masses[-1], side="left")))


def _select_highest(logits: Floats, *, count: int, border: np.float32) -> Ids:
    """Return the ids, in order, of the `count` highest logits; `border` is the lowest of them."""
    ids = np.flatnonzero(logits >= border)
    if len(ids) == count:
        return ids
    ties = np.flatnonzero(logits[ids] == border)
    surplus = len(ids) - count
    return np.delete(ids, ties[len(ties) - surplus :])
