"""Tiny models with adapters, in our module and in `peft`, and how far apart two results are."""

import atexit
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel

from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module
from tests.families import FAMILIES, create_random_adapter, create_tiny

IDS = torch.arange(5, 90)
Arrays = dict[str, np.ndarray[Any, Any]]


@cache
def open_tiny(name: str) -> Checkpoint:
    """Return the tiny checkpoint `name`, saved once for all tests."""
    folder = Path(mkdtemp(prefix="fluvial-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    FAMILIES[name](folder)
    return open_checkpoint(folder)


def create_plain_adapter(checkpoint: Checkpoint, *, rank: int = 4, seed: int = 1) -> Arrays:
    """Make a random adapter without gains, as the default rule does."""
    tensors = create_random_adapter(checkpoint.declaration, rank=rank, seed=seed)
    return {name: each * (not name.endswith(".gain")) for name, each in tensors.items()}


def run_ours(checkpoint: Checkpoint, tensors: Mapping[str, Any] | None = None) -> torch.Tensor:
    """Return the logits of our module with an adapter."""
    module = Module(checkpoint)
    adapter = None
    if tensors is not None:
        adapter = {name: torch.from_numpy(each) for name, each in tensors.items()}
    return module.logits(module.read(IDS, adapter=adapter)[0])


def run_peft(name: str, folder: Path) -> torch.Tensor:
    """Return the logits of the `transformers` model with the LoRA in `folder`, by `peft`."""
    return run_model(PeftModel.from_pretrained(create_tiny(name), folder))


def run_model(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS[None]).logits[0]


def find_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())
