"""How far an adapter has moved the model: divergence from the base on a fixed text, and its budget.

KL(base || adapted) in nats a token, over the whole vocabulary, on the first tokens of the probe.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluvial.adapt.bounding import Settlement, bound
from fluvial.adapt.live import Live
from fluvial.errors import ConflictError
from fluvial.model.adapter import Tensors
from fluvial.version_note import NotFinite, OverBudget, VersionNote

PROBE_TOKENS = 160


class LogitSource(Protocol):
    """What a probe is measured with."""

    def measure_logits(self, tokens: Sequence[int], live: Live | None) -> NDArray[np.float32]:
        """Return the logits after each token, float32 [s, V]."""
        ...


class Probe:
    """The probe of one model: its tokens, and what the base says to them."""

    def __init__(self, tokens: Sequence[int], source: LogitSource) -> None:
        self._tokens, self._source = [*tokens][:PROBE_TOKENS], source
        self._base: Tensor | None = None

    def measure(self, live: Live) -> float:
        """Return the divergence of this state from the base, nats a token; NaN if not finite."""
        if self._base is None:
            self._base = self._read(None)
        adapted = self._read(live)
        return float((self._base.exp() * (self._base - adapted)).sum(dim=-1).mean())

    def _read(self, live: Live | None) -> Tensor:
        logits = torch.from_numpy(self._source.measure_logits(self._tokens, live))
        return logits.log_softmax(dim=-1)


def settle(live: Live, probe: Probe, *, budget: float) -> Settlement:
    """Make a live state fit to be a version: finite, within its budget, rounded as it is stored.

    One over budget is scaled back; if that does not help, or something is not finite, the state is
    that of the last version again.
    """
    if not live.is_finite():
        return _refuse(live, probe, NotFinite())

    def measure(tensors: Tensors) -> float:
        live.set(tensors)
        live.round()
        return probe.measure(live)

    try:
        bounded = bound(live.export(), budget=budget, measure=measure)
    except ConflictError:
        return _refuse(live, probe, OverBudget(budget=budget))
    live.keep()
    return Settlement(drift=bounded.drift or 0.0, scale=bounded.scale, notes=bounded.notes)


def _refuse(live: Live, probe: Probe, reason: VersionNote) -> Settlement:
    live.go_back()
    return Settlement(drift=probe.measure(live), notes=(reason,))
