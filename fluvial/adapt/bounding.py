"""Keep an adapter within its drift budget: measured, and scaled back where it is over."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fluvial.errors import ConflictError
from fluvial.model.adapter import Adapter, Tensors
from fluvial.version_note import ScaledBack, Unmeasured, VersionNote

Measure = Callable[[Tensors], float]
"""Measures the drift of an adapter's tensors: divergence from the base, nats a token."""

TRIES = 8
MARGIN = 0.97
"""Scaled to just below the budget: the divergence is only nearly a square of the scale."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounded:
    """An adapter in its budget. `drift` is None where it can't be measured; `notes` say so."""

    tensors: Tensors
    drift: float | None
    scale: float
    notes: tuple[VersionNote, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Settlement:
    """A live state made fit to be a version.

    `drift`: divergence from the base on the probe, nats a token. `scale` is less than 1 where the
    change was scaled back to its budget; `notes` say why, or why it was refused.
    """

    drift: float
    scale: float = 1.0
    notes: tuple[VersionNote, ...] = ()


def bound(tensors: Tensors, *, budget: float, measure: Measure | None) -> Bounded:
    """Return the adapter, made smaller as a whole until its drift is at most `budget`.

    Raises ConflictError `drift_over_budget` where even that does not help.
    """
    if measure is None:
        return Bounded(tensors=tensors, drift=None, scale=1.0, notes=(Unmeasured(),))
    scale, first, scaled = 1.0, None, tensors
    for _ in range(TRIES):
        drift = measure(scaled)
        first = drift if first is None else first
        if drift <= budget:
            notes = () if scale == 1 else (_tell_scaled(first, budget=budget),)
            return Bounded(tensors=scaled, drift=drift, scale=scale, notes=notes)
        scale *= MARGIN * math.sqrt(budget / drift) if math.isfinite(drift) else 0.25
        scaled = scale_tensors(tensors, scale)
    raise ConflictError(
        f"this adapter's drift is over the budget of {budget:g} nats a token, and stays so when it "
        "is scaled back",
        code="drift_over_budget",
    )


def _tell_scaled(drift: float, *, budget: float) -> ScaledBack:
    return ScaledBack(drift=drift if math.isfinite(drift) else None, budget=budget)


def scale_tensors(tensors: Tensors, scale: float) -> Tensors:
    """Scale the change that an adapter makes: B and the gains; A stays."""
    factor = np.float32(scale)
    return {
        name: array if name.endswith(".a") else array * factor for name, array in tensors.items()
    }


def find_rank(tensors: Tensors) -> int:
    """Return the rank of an adapter's terms."""
    return Adapter("", tensors).rank
