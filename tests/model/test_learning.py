"""Every family learns: a few steps on an adapter lower the loss on a text that repeats."""

from pathlib import Path

import pytest
import torch

from fluvial.model.adapter import create_tensors
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module import Module
from tests.families import FAMILIES

TEXT = torch.tensor([*range(40, 64)] * 4)
CONTEXT, STEPS = 24, 12


@pytest.mark.parametrize("name", FAMILIES)
def test_a_few_steps_lower_the_loss(name: str, tmp_path: Path) -> None:
    FAMILIES[name](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    module = Module(checkpoint)
    fresh = create_tensors(checkpoint.declaration, rank=4, seed=0)
    live = {name: torch.from_numpy(array).requires_grad_() for name, array in fresh.items()}
    optimizer = torch.optim.Adam(live.values(), lr=1e-2)
    losses: list[float] = []
    for _ in range(STEPS):
        # As the learner reads: what stands before is a state without gradients.
        with torch.no_grad():
            _, past = module.read(TEXT[:CONTEXT], adapter=live)
        hidden, _ = module.read(TEXT[CONTEXT:-1], adapter=live, past=past)
        loss = module.losses(hidden, TEXT[CONTEXT + 1 :]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    still = [name for name, tensor in live.items() if tensor.grad is None or not tensor.grad.any()]
    assert not still, "these take no part in learning"
