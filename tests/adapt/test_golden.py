"""A short loss curve, kept: a change in the module, the rule or the optimiser shows here."""

from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.model.checkpoint import open_checkpoint

TEXT = [3 + (11 * i * i + 5 * i) % 200 for i in range(512)]
ADAPTED_NATS = [475.1682, 473.5503, 445.0511, 476.9080, 480.7416, 433.9505, 457.2088, 477.0680]


def test_the_loss_curve_is_the_one_that_was_kept(tiny_model: Path) -> None:
    learner = Learner(open_checkpoint(tiny_model), rule=Rule(rank=4, chunk_tokens=64))
    learner.use_threads(1)
    learner.load("s", None)
    found = [
        learner.read(
            "s", context=[0, *TEXT[max(0, at - 31) : at]], chunk=TEXT[at : at + 64], learn=True
        ).adapted_nats
        for at in range(0, len(TEXT), 64)
    ]
    assert found == pytest.approx(ADAPTED_NATS, rel=1e-4)
