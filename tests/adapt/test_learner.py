"""The learner: scores before it learns, learns from the right thing, and never harms its state."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.model.adapter import create_tensors
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from tests.reference import load_reference

RULE = Rule(rank=4, chunk_tokens=64, overlap_tokens=16, stride_tokens=256, min_tokens=8)
TEXT = [3 + (7 * i * i + i) % 90 for i in range(64)]


@pytest.fixture(scope="module")
def checkpoint(tiny_qwen: Path) -> Checkpoint:
    return open_checkpoint(tiny_qwen)


@pytest.fixture
def learner(checkpoint: Checkpoint) -> Learner:
    learner = Learner(checkpoint, rule=RULE)
    learner.load("s", None)
    return learner


def test_the_frozen_score_is_what_transformers_finds(
    learner: Learner, checkpoint: Checkpoint
) -> None:
    context = [0, 5, 9, 11]
    ids = torch.tensor([[*context, *TEXT]])
    with torch.no_grad():
        logits = load_reference(checkpoint)(ids).logits[0, len(context) - 1 : -1]
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(TEXT), reduction="sum")
    assert sum(learner.score(context, TEXT)) == pytest.approx(float(expected), rel=1e-5)


def test_a_chunk_is_scored_before_it_is_learned_from(learner: Learner) -> None:
    first = learner.read("s", context=[0], chunk=TEXT, learn=True)
    assert first.learned
    assert first.adapted_nats == pytest.approx(sum(learner.score([0], TEXT)), rel=1e-6)
    second = learner.read("s", context=[0], chunk=TEXT, learn=False)
    assert second.adapted_nats < first.adapted_nats
    assert second.frozen_nats == first.frozen_nats


def test_reading_without_learning_changes_nothing(learner: Learner) -> None:
    before = learner.export("s")
    result = learner.read("s", context=[0], chunk=TEXT, learn=False)
    assert not result.learned
    _assert_same(learner.export("s"), before)


def test_repeated_text_is_learned(learner: Learner) -> None:
    losses = [
        learner.read("s", context=[0], chunk=TEXT, learn=True).adapted_nats for _ in range(24)
    ]
    assert losses[-1] < 0.8 * losses[0]


def test_the_gradient_is_that_of_a_plain_forward_pass(
    learner: Learner, checkpoint: Checkpoint
) -> None:
    """With one token of context nothing is cut off: the step must equal plain autograd and Adam."""
    start = learner.export("s")
    learner.read("s", context=[0], chunk=TEXT, learn=True)
    expected = _step_plainly(checkpoint, start)
    for name, tensor in learner.export("s").items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_sessions_do_not_touch_each_other(learner: Learner) -> None:
    learner.load("other", None)
    before = learner.export("other")
    learner.read("s", context=[0], chunk=TEXT, learn=True)
    _assert_same(learner.export("other"), before)


def test_export_and_load_keep_every_bit(learner: Learner) -> None:
    learner.read("s", context=[0], chunk=TEXT, learn=True)
    saved = learner.export("s")
    score = learner.read("s", context=[0], chunk=TEXT, learn=False).adapted_nats
    learner.load("again", saved)
    _assert_same(learner.export("again"), saved)
    again = learner.read("again", context=[0], chunk=TEXT, learn=False)
    assert again.adapted_nats == score


def test_a_short_chunk_is_scored_but_not_learned_from(learner: Learner) -> None:
    before = learner.export("s")
    result = learner.read("s", context=[0], chunk=TEXT[:7], learn=True)
    assert not result.learned
    assert result.adapted_nats > 0
    _assert_same(learner.export("s"), before)


@pytest.mark.parametrize(
    ("settings", "learned"),
    [
        ({"share": 0.5}, [True, False, True, False, True, False]),
        ({"share": 0.75}, [True, False, True, True, True, False]),
        ({"gate": 1.5}, [True, False, False, False, False, False]),
    ],
)
def test_chunks_are_left_out_as_the_rule_says(
    checkpoint: Checkpoint, settings: dict[str, float], learned: list[bool]
) -> None:
    learner = Learner(checkpoint, rule=replace(RULE, **settings))
    learner.load("s", None)
    results = [learner.read("s", context=[0], chunk=TEXT, learn=True) for _ in learned]
    assert [result.learned for result in results] == learned
    assert [result.skipped for result in results] == [not each for each in learned]


def test_layers_under_the_depth_stay_as_they_were(checkpoint: Checkpoint) -> None:
    learner = Learner(checkpoint, rule=replace(RULE, depth=0.5))
    learner.load("s", None)
    before = learner.export("s")
    learner.read("s", context=[0], chunk=TEXT, learn=True)
    after, half = learner.export("s"), len(checkpoint.declaration.layers) // 2
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed
    assert {int(name.split(".")[1]) for name in changed} == set(
        range(half, len(checkpoint.declaration.layers))
    )


def test_decay_takes_its_share_off_what_each_step_left(checkpoint: Checkpoint) -> None:
    states: list[dict[str, np.ndarray]] = []
    for decay in (0.0, 0.25):
        learner = Learner(checkpoint, rule=replace(RULE, decay=decay))
        learner.load("s", None)
        learner.read("s", context=[0], chunk=TEXT, learn=True)
        states.append(learner.export("s"))
    for name, whole in states[0].items():
        left = 1.0 if name.endswith(".a") else 0.75
        np.testing.assert_allclose(states[1][name], left * whole, rtol=1e-6, err_msg=name)


def test_values_that_are_not_finite_never_reach_the_state(
    checkpoint: Checkpoint, learner: Learner
) -> None:
    broken = create_tensors(checkpoint.declaration, rank=4, seed=0)
    broken["layers.0.gain"][:] = 3e38
    learner.load("s", broken)
    before = learner.export("s")
    assert not learner.read("s", context=[0], chunk=TEXT, learn=True).learned
    _assert_same(learner.export("s"), before)


def _step_plainly(checkpoint: Checkpoint, start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    from fluvial.model.module import Module

    module = Module(checkpoint)
    live = {name: torch.tensor(array, requires_grad=True) for name, array in start.items()}
    hidden, _ = module.read(torch.tensor([0, *TEXT[:-1]]), adapter=live)
    loss = torch.nn.functional.cross_entropy(module.logits(hidden), torch.tensor(TEXT))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(live.values(), RULE.clip)
    rates = dict.fromkeys(live, RULE.learning_rate) | _choose_weight_rates(checkpoint)
    torch.optim.Adam([{"params": [live[name]], "lr": rates[name]} for name in live]).step()
    return {name: tensor.detach().numpy() for name, tensor in live.items()}


def _choose_weight_rates(checkpoint: Checkpoint) -> dict[str, float]:
    """B moves in proportion to the root mean square norm of the rows of the weights it changes."""
    rates: dict[str, float] = {}
    for index, layer in enumerate(checkpoint.declaration.layers):
        for group in layer.groups:
            parts = [checkpoint.matrix(f"layers.{index}.{part}") for part, _ in group.parts]
            rows = np.linalg.norm(np.concatenate(parts), axis=1)
            rates[f"layers.{index}.{group.name}.b"] = RULE.weight_rate * float(
                np.sqrt(np.mean(rows**2))
            )
    return rates


def _assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[name], err_msg=name)
