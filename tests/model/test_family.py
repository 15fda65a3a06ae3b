"""Every family against `transformers`, on a tiny random checkpoint that `transformers` saved."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from fluvial.model.adapter import create_tensors
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import AdapterTensors, Module
from tests.convert import write_gguf
from tests.families import FAMILIES, create_random_adapter, merge_adapter
from tests.llama_cpp import predict

Saved = tuple[PreTrainedModel, Checkpoint, Module]
FILES = (
    "llama",
    "llama-tied",
    "llama-llama3",
    "llama-linear",
    "llama-yarn",
    "qwen2",
    "qwen3",
    "gemma3",
    "gemma3-capped",
    "lfm2",
)
IDS = torch.arange(7, 127) * 5 % 300


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    folder = tmp_path_factory.mktemp(request.param)
    model = FAMILIES[request.param](folder)
    checkpoint = open_checkpoint(folder)
    return model, checkpoint, Module(checkpoint)


def test_logits_equal_transformers(saved: Saved) -> None:
    model, _, module = saved
    found = module.logits(module.read(IDS)[0])
    assert _differ(found, _reference(model)) < 1e-4


def test_step_by_step_is_whole(saved: Saved) -> None:
    _, _, module = saved
    whole, _ = module.read(IDS)
    past, steps = None, []
    for chunk in (IDS[:50], IDS[50:51], IDS[51:53], *IDS[53:70].split(1), IDS[70:]):
        hidden, past = module.read(chunk, past=past)
        steps.append(hidden)
    assert _differ(torch.cat(steps), whole) < 1e-5


def test_a_zero_adapter_is_the_base_to_the_last_bit(saved: Saved) -> None:
    _, checkpoint, module = saved
    adapter = _to_torch(create_tensors(checkpoint.declaration, rank=4, seed=1))
    assert torch.equal(module.read(IDS, adapter=adapter)[0], module.read(IDS)[0])


def test_a_random_adapter_is_the_same_merged_into_the_weights(saved: Saved) -> None:
    model, checkpoint, module = saved
    adapter = create_random_adapter(checkpoint.declaration)
    kept = {name: weight.clone() for name, weight in model.state_dict().items()}
    merge_adapter(model, checkpoint, adapter)
    merged = _reference(model)
    model.load_state_dict(kept)
    found = module.logits(module.read(IDS, adapter=_to_torch(adapter))[0])
    assert _differ(found, merged) < 1e-4
    assert _differ(found, _reference(model)) > 1e-2


def test_losses_are_those_of_the_logits(saved: Saved) -> None:
    _, _, module = saved
    hidden = module.read(IDS)[0].detach().requires_grad_()
    plain = torch.nn.functional.cross_entropy(module.logits(hidden), IDS, reduction="none")
    (expected,) = torch.autograd.grad(plain.sum(), hidden)
    losses = module.losses(hidden, IDS)
    (found,) = torch.autograd.grad(losses.sum(), hidden)
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def _reference(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS[None]).logits[0]


def _differ(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _to_torch(tensors: dict[str, np.ndarray]) -> AdapterTensors:
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


@pytest.mark.parametrize("name", FILES)
def test_gguf_gives_the_same_model_as_the_folder(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name](tmp_path / "folder")
    path = write_gguf(model, tmp_path / "model.gguf")
    from_file, from_folder = open_checkpoint(path), open_checkpoint(tmp_path / "folder")
    assert _round(from_file.declaration) == _round(from_folder.declaration)
    assert from_file.weights.keys() == from_folder.weights.keys()
    module = Module(from_file)
    assert _differ(module.logits(module.read(IDS)[0]), _reference(model)) < 1e-4


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_reads_the_files_alike(name: str, tmp_path: Path) -> None:
    """The files that the test above trusts are what llama.cpp understands by these names."""
    path = write_gguf(FAMILIES[name](tmp_path / "folder"), tmp_path / "model.gguf")
    found = torch.tensor(predict(path, IDS[:70].tolist(), vocab_size=300))
    module = Module(open_checkpoint(path))
    expected = module.logits(module.read(IDS[:70])[0])[-1].log_softmax(-1)
    assert _differ(found, expected) < 1e-4


def _round(declaration: Declaration) -> str:
    """Write a declaration with its numbers rounded: GGUF keeps float32."""
    return re.sub(r"\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", repr(declaration))


def test_every_tensor_of_an_adapter_gets_a_gradient(saved: Saved) -> None:
    _, checkpoint, module = saved
    adapter = _to_torch(create_random_adapter(checkpoint.declaration))
    for tensor in adapter.values():
        tensor.requires_grad_()
    with torch.no_grad():
        _, past = module.read(IDS[:60], adapter=adapter)
    hidden, _ = module.read(IDS[60:-1], adapter=adapter, past=past)
    module.losses(hidden, IDS[61:]).mean().backward()
    for name, tensor in adapter.items():
        assert tensor.grad is not None, name
        assert torch.isfinite(tensor.grad).all(), name
        assert tensor.grad.abs().max() > 0, name
