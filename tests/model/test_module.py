"""The PyTorch module against `transformers`, and against itself in other cuts."""

from pathlib import Path

import pytest
import torch

from fluvial.model.adapter import create_tensors
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module import Module
from tests.reference import create_reference, load_reference


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_equal_transformers_on_its_own_checkpoint(
    family: str, tied: bool, tmp_path: Path
) -> None:
    reference = create_reference(family, tied=tied)
    reference.save_pretrained(tmp_path)
    module = Module(open_checkpoint(tmp_path))
    _assert_same_logits(module, reference, torch.arange(5, 200))


@pytest.mark.parametrize("fixture", ["tiny_model", "tiny_qwen"])
def test_logits_equal_transformers_on_gguf(fixture: str, request: pytest.FixtureRequest) -> None:
    checkpoint = open_checkpoint(request.getfixturevalue(fixture))
    _assert_same_logits(Module(checkpoint), load_reference(checkpoint), torch.arange(3, 120))


def test_reading_in_pieces_is_reading_at_once(tiny_model: Path) -> None:
    module = Module(open_checkpoint(tiny_model))
    ids = torch.arange(3, 90)
    whole, _ = module.read(ids)
    first, past = module.read(ids[:31])
    middle, past = module.read(ids[31:32], past=past)
    last, _ = module.read(ids[32:], past=past)
    torch.testing.assert_close(torch.cat([first, middle, last]), whole, rtol=1e-4, atol=1e-5)


def test_a_new_adapter_is_exactly_the_base(tiny_qwen: Path) -> None:
    checkpoint = open_checkpoint(tiny_qwen)
    module = Module(checkpoint)
    fresh = create_tensors(checkpoint.declaration, rank=4, seed=1)
    adapter = {name: torch.from_numpy(array) for name, array in fresh.items()}
    ids = torch.arange(3, 90)
    assert torch.equal(module.read(ids, adapter=adapter)[0], module.read(ids)[0])


def test_block_losses_and_their_gradient_equal_the_plain_way(tiny_model: Path) -> None:
    module = Module(open_checkpoint(tiny_model))
    torch.manual_seed(0)
    hidden = torch.randn(300, 64, dtype=torch.float32, requires_grad=True)
    targets = torch.randint(0, module.declaration.vocab_size, (300,))
    weight = torch.rand(300)
    plain = torch.nn.functional.cross_entropy(module.logits(hidden), targets, reduction="none")
    (expected,) = torch.autograd.grad((plain * weight).sum(), hidden)
    losses = module.losses(hidden, targets)
    (found,) = torch.autograd.grad((losses * weight).sum(), hidden)
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(found, expected)


def _assert_same_logits(module: Module, reference: torch.nn.Module, ids: torch.Tensor) -> None:
    with torch.no_grad():
        expected = reference(ids[None]).logits[0]
    found = module.logits(module.read(ids)[0])
    error = (found - expected).norm() / expected.norm()
    assert error < 1e-4
