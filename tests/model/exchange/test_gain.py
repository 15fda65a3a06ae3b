"""Gains leave as low-rank terms: exactly where the rank suffices, else with the loss told."""

import json
from pathlib import Path

import numpy as np
import pytest

from fluvial.errors import InputError, UnsupportedError
from fluvial.model.exchange import export_gguf, export_peft, import_gguf, import_peft
from fluvial.model.exchange.gain import Fold, prepare
from tests.families import create_random_adapter
from tests.model.exchange.sample import (
    Arrays,
    create_plain_adapter,
    find_error,
    open_tiny,
    run_ours,
    run_peft,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@pytest.mark.parametrize("name", ["llama", "qwen2", "lfm2"])
def test_a_rank_as_high_as_the_width_folds_gains_exactly(name: str, tmp_path: Path) -> None:
    checkpoint = open_tiny(name)
    tensors = create_random_adapter(checkpoint.declaration)
    ours = run_ours(checkpoint, tensors)
    assert find_error(run_ours(checkpoint, without_gains(tensors)), ours) > 0.05
    loss = export_peft(
        tensors,
        declaration=checkpoint.declaration,
        base_name="x",
        folder=tmp_path,
        fold=Fold(checkpoint=checkpoint, rank=64),
    )
    assert loss.overall < 1e-6
    assert find_error(run_peft(name, tmp_path), ours) < 1e-5


@pytest.mark.parametrize("name", ["llama", "deepseek-v3"])
def test_gains_go_through_gguf_too(name: str, tmp_path: Path) -> None:
    checkpoint = open_tiny(name)
    tensors = create_random_adapter(checkpoint.declaration)
    for name_of, each in tensors.items():
        if ".q" in name_of or ".kv" in name_of:  # of these, llama.cpp would leave some out
            each *= 0
    path, declaration = tmp_path / "lora.gguf", checkpoint.declaration
    export_gguf(
        tensors, declaration=declaration, path=path, fold=Fold(checkpoint=checkpoint, rank=64)
    )
    found = import_gguf(path, declaration=declaration, rank_limit=64).tensors
    assert not any(each.any() for name, each in found.items() if name.endswith(".gain"))
    ours = run_ours(checkpoint, tensors)
    assert find_error(run_ours(checkpoint, found), ours) < 1e-5


def test_a_lower_rank_takes_up_what_it_can_and_tells_the_loss(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_random_adapter(checkpoint.declaration)
    losses = []
    for rank in (4, 16, 40):
        fold = Fold(checkpoint=checkpoint, rank=rank)
        outgoing = prepare(tensors, declaration=checkpoint.declaration, fold=fold)
        assert outgoing.loss.groups.keys() == {"layers.0.down", "layers.1.down"}
        losses.append(outgoing.loss.groups["layers.1.down"])
        term = outgoing.terms["layers.1.down"]
        assert term.a.shape[1] == rank
        gain = 1 + tensors["layers.1.gain"][:, None]
        base = checkpoint.matrix("layers.1.down").T
        a, b = tensors["layers.1.down.a"], tensors["layers.1.down.b"]
        wanted = (base + a @ b) * gain - base
        error = np.linalg.norm(term.a @ term.b - wanted) / np.linalg.norm(wanted)
        assert losses[-1] == pytest.approx(error, rel=1e-4)
        assert 0 < outgoing.loss.overall < losses[-1]
    assert losses == sorted(losses, reverse=True)


def test_only_layers_with_gains_get_the_higher_rank(tmp_path: Path) -> None:
    checkpoint = open_tiny("qwen2")
    tensors = create_plain_adapter(checkpoint)
    tensors["layers.1.gain"][[3, 70]] = 0.5, -0.25
    loss = export_peft(
        tensors,
        declaration=checkpoint.declaration,
        base_name="x",
        folder=tmp_path,
        fold=Fold(checkpoint=checkpoint, rank=6),
    )
    # Two gains are a term of rank 2: beside the adapter's own 4, nothing is lost.
    assert loss.overall < 1e-6
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["rank_pattern"] == {"model.layers.1.mlp.down_proj": 6}
    assert config["alpha_pattern"] == config["rank_pattern"]
    assert find_error(run_peft("qwen2", tmp_path), run_ours(checkpoint, tensors)) < 1e-5
    found = import_peft(tmp_path, declaration=checkpoint.declaration, rank_limit=6).tensors
    assert np.array_equal(found["layers.0.qkv.a"][:, :4], tensors["layers.0.qkv.a"])
    assert find_error(run_ours(checkpoint, found), run_ours(checkpoint, tensors)) < 1e-5


def test_a_fold_needs_the_weights_of_the_same_model() -> None:
    tensors = create_random_adapter(open_tiny("llama").declaration)
    declaration = open_tiny("llama").declaration
    with pytest.raises(InputError, match="own model"):
        prepare(tensors, declaration=declaration, fold=Fold(checkpoint=open_tiny("qwen2")))
    with pytest.raises(InputError, match="1 or more"):
        prepare(tensors, declaration=declaration, fold=Fold(checkpoint=open_tiny("llama"), rank=0))


def test_gains_are_refused_where_only_the_exact_will_do(tmp_path: Path) -> None:
    checkpoint = open_tiny("llama")
    tensors = create_plain_adapter(checkpoint)
    tensors["layers.1.gain"][5] = 1e-6
    with pytest.raises(UnsupportedError, match=r"layers\.1\.gain"):
        export_gguf(tensors, declaration=checkpoint.declaration, path=tmp_path / "lora.gguf")
    assert not list(tmp_path.iterdir())


def without_gains(tensors: Arrays) -> Arrays:
    return {name: each * (not name.endswith(".gain")) for name, each in tensors.items()}
