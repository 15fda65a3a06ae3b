"""The learner learns on every declared family: scored first, then moved, drift counted."""

from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.model.adapter import list_shapes
from fluvial.model.checkpoint import open_checkpoint
from tests.families import FAMILIES

RULE = Rule(rank=4, chunk_tokens=32, overlap_tokens=16, stride_tokens=256, min_tokens=8)
CONTEXT, TEXT = [1, 5, 9, 11], [*range(40, 56)] * 2
STEPS = 12


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_that_repeats_is_learned(name: str, tmp_path: Path) -> None:
    FAMILIES[name](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    learner = Learner(checkpoint, rule=RULE)
    learner.use_threads(1)
    learner.load("s", None)
    results = [learner.read("s", context=CONTEXT, chunk=TEXT, learn=True) for _ in range(STEPS)]
    assert all(result.learned for result in results)
    assert results[0].adapted_nats == pytest.approx(results[0].frozen_nats, rel=1e-5)
    assert results[-1].frozen_nats == results[0].frozen_nats
    assert results[-1].adapted_nats < 0.97 * results[0].adapted_nats
    assert learner.settle("s").drift > 0
    shapes = {name: tensor.shape for name, tensor in learner.export("s").items()}
    assert shapes == list_shapes(checkpoint.declaration, rank=RULE.rank)
