"""The PyTorch module against `transformers`, and against itself in other cuts."""

from pathlib import Path

import pytest
import torch

from fluvial.model.adapter import create_tensors
from fluvial.model.architecture.declaration import Rotary
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module import Module
from fluvial.model.module.attention import attend
from fluvial.model.module.gradient import Scoring
from fluvial.model.module.rotary import turn
from tests.convert import write_gguf
from tests.families import FAMILIES
from tests.reference import load_reference


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


@pytest.mark.parametrize("name", ["llama-llama3", "gemma3", "lfm2"])
def test_the_reference_for_gguf_files_is_the_model_that_was_written(
    name: str, tmp_path: Path
) -> None:
    model = FAMILIES[name](tmp_path / "folder")
    checkpoint = open_checkpoint(write_gguf(model, tmp_path / "model.gguf"))
    ids = torch.arange(5, 90)[None]
    with torch.no_grad():
        found, expected = load_reference(checkpoint)(ids).logits, model(ids).logits
    assert (found - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("num_new", [1, 3, 20])
def test_attention_is_what_its_formula_says(
    num_new: int, softcap: float | None, window: int | None
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(4, num_new, 8), torch.randn(2, 20, 8), torch.randn(2, 20, 6)
    scoring = Scoring(scale=0.5, window=window, softcap=softcap)
    found = attend(q, k, v, scoring).view(num_new, 4, 6)
    for token in range(num_new):
        last = 20 - num_new + token
        first = 0 if window is None else max(0, last - window + 1)
        for head in range(4):
            scores = 0.5 * k[head // 2, first : last + 1] @ q[head, token]
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            expected = scores.softmax(dim=0) @ v[head // 2, first : last + 1]
            torch.testing.assert_close(found[token, head], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("start", [0, 3])
def test_turning_is_multiplying_by_complex_numbers(start: int, interleaved: bool) -> None:
    torch.manual_seed(0)
    rotary = Rotary(frequencies=(1.0, 0.1), start=start, interleaved=interleaved, magnitude=1.5)
    x = torch.randn(2, 6, 9)
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    expected = x.clone()
    for (first, second), frequency in zip(pairs, rotary.frequencies, strict=True):
        angles = frequency * (7 + torch.arange(6))
        turned = torch.complex(x[..., start + first], x[..., start + second]) * 1.5
        turned = turned * torch.complex(angles.cos(), angles.sin())
        expected[..., start + first], expected[..., start + second] = turned.real, turned.imag
    torch.testing.assert_close(turn(x, rotary, start=7), expected)
