"""Gated DeltaNet: the chunked rule against the rule itself, token by token, and its files."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Attention, GatedDelta
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module.delta import apply_delta_rule
from tests.families import FAMILIES

HEADS, KEY, VALUE = 3, 8, 5


@pytest.mark.parametrize("tokens", [1, 2, 63, 64, 65, 150])
@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_chunks_are_token_by_token(tokens: int, strength: float) -> None:
    inputs = _draw(tokens, strength=strength)
    found, memory = _run(inputs)
    expected, expected_memory = _step(inputs)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory, expected_memory.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cut", [1, 40, 64, 100])
def test_the_memory_carries_over_any_cut(cut: int) -> None:
    inputs = _draw(130)
    whole, memory = _run(inputs)
    first, between = _run((*(part[:, :cut] for part in inputs[:5]), inputs[5]))
    second, last = _run((*(part[:, cut:] for part in inputs[:5]), between))
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(last, memory, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_token_by_token() -> None:
    inputs = tuple(part.requires_grad_() for part in _draw(70))
    reads, memory = _run(inputs)
    found = torch.autograd.grad(reads.square().sum() + memory.sum(), inputs)
    reads, memory = _step(inputs)
    expected = torch.autograd.grad(reads.square().sum() + memory.sum(), inputs)
    for one, other in zip(found, expected, strict=True):
        assert one.norm() > 0
        assert (one - other).norm() < 1e-4 * other.norm()


def test_decays_that_forget_everything_give_no_nan() -> None:
    q, k, v, _, beta, memory = _draw(70)
    log_decay = torch.full((HEADS, 70), -1e4, requires_grad=True)
    reads, after = _run((q, k, v, log_decay, beta, memory))
    (slope,) = torch.autograd.grad(reads.sum() + after.sum(), log_decay)
    assert reads.isfinite().all()
    assert slope.isfinite().all()
    torch.testing.assert_close(reads, (q * k).sum(-1, keepdim=True) * beta[..., None] * v)


def test_projections_interleaved_by_key_head_come_apart(tmp_path: Path) -> None:
    model = FAMILIES["qwen3-next"](tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    delta = checkpoint.declaration.layers[0].mixer
    assert isinstance(delta, GatedDelta)
    theirs = model.model.layers[0].linear_attn
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        parts = theirs.fix_query_key_value_ordering(theirs.in_proj_qkvz(x), theirs.in_proj_ba(x))
    expected = torch.cat([part.flatten() for part in parts])
    names = [name for name, _ in delta.delta_in.parts]
    assert names == ["delta_qkv", "delta_z", "delta_b", "delta_a"]
    ours = [torch.from_numpy(checkpoint.matrix(f"layers.0.{name}").copy()) for name in names]
    torch.testing.assert_close(torch.cat(ours) @ x.flatten(), expected)


def test_a_quarter_of_each_head_turns_and_each_is_gated(tmp_path: Path) -> None:
    FAMILIES["qwen3-next"](tmp_path)
    attention = open_checkpoint(tmp_path).declaration.layers[3].mixer
    assert isinstance(attention, Attention)
    assert attention.rotary is not None
    assert 2 * len(attention.rotary.frequencies) == attention.head_width // 4
    assert attention.has_gate
    assert attention.head_norm


def test_without_a_list_every_fourth_layer_attends(tmp_path: Path) -> None:
    _save(tmp_path, layer_types=None)
    kinds = [type(layer.mixer) for layer in open_checkpoint(tmp_path).declaration.layers]
    assert kinds == [GatedDelta, GatedDelta, GatedDelta, Attention]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("linear_num_value_heads", 5, "5 value heads don't go with 2 key heads"),
        ("linear_num_key_heads", 4, "in_proj_qkvz.* the model needs"),
        ("linear_key_head_dim", 2**20, "must be a whole number"),
        ("linear_conv_kernel_dim", 1, "a convolution of 1 taps"),
        ("linear_conv_kernel_dim", 5, "conv1d.* the model needs"),
        ("full_attention_interval", 0, "must be a whole number"),
        ("layer_types", ["linear_attention"], "must be 4 words"),
        ("layer_types", ["mamba"] * 4, "must be 4 words of linear_attention, full_attention"),
        ("rope_parameters", {"partial_rotary_factor": 2.0}, "a positive number from .* to 1"),
        ("rope_parameters", {"partial_rotary_factor": 0.04}, "1 of a head's 32 features turn"),
        ("head_dim", 64, r"q_proj.* rows"),
    ],
)
def test_bad_hyperparameters_are_named(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    _save(tmp_path, **({"layer_types": None} | {key: value}))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def _save(folder: Path, **changes: object) -> None:
    FAMILIES["qwen3-next"](folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


Inputs = tuple[Tensor, ...]


def _draw(tokens: int, *, strength: float = 1.0) -> Inputs:
    """Return q, k, v, log decay, beta and a memory; k are unit vectors as the mixer makes them."""
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    k = torch.nn.functional.normalize(draw(HEADS, tokens, KEY), dim=-1)
    return (
        draw(HEADS, tokens, KEY),
        k,
        draw(HEADS, tokens, VALUE),
        -strength * draw(HEADS, tokens).exp(),
        draw(HEADS, tokens).sigmoid(),
        draw(HEADS, KEY, VALUE),
    )


def _run(inputs: Inputs) -> tuple[Tensor, Tensor]:
    q, k, v, log_decay, beta, memory = inputs
    return apply_delta_rule(q, k, v, log_decay_HS=log_decay, beta_HS=beta, memory_HWV=memory)


def _step(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The rule itself, in float64."""
    q, k, v, log_decay, beta, memory = (part.double() for part in inputs)
    reads: list[Tensor] = []
    for t in range(q.shape[1]):
        memory = memory * log_decay[:, t, None, None].exp()
        said = torch.einsum("hw,hwv->hv", k[:, t], memory)
        written = beta[:, t, None] * (v[:, t] - said)
        memory = memory + torch.einsum("hw,hv->hwv", k[:, t], written)
        reads.append(torch.einsum("hw,hwv->hv", q[:, t], memory))
    return torch.stack(reads, dim=1), memory
