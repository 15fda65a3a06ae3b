"""Mixtures of experts: the choice of experts against a plain loop, and what files may not say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Router
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module.experts import route
from tests.families import FAMILIES


@settings(max_examples=60, deadline=None)
@given(
    score=st.sampled_from(["softmax", "sigmoid"]),
    normalise=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_routing_is_the_plain_loop(
    score: str, normalise: bool, groups: int, bias: bool, seed: int
) -> None:
    router = Router(
        score=score,  # type: ignore[arg-type]
        normalise=normalise,
        bias=bias,
        groups=groups,
        active_groups=(groups + 1) // 2,
        scale=2.5,
    )
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 8, generator=generator)
    bias_E = torch.randn(8, generator=generator) if bias else None
    weights, chosen = route(logits, router=router, active=2, bias_E=bias_E)
    for token in range(5):
        row = logits[token].double().numpy()
        expected = _route_one(row, router, None if bias_E is None else bias_E.double().numpy())
        assert chosen[token].tolist() == [expert for expert, _ in expected]
        np.testing.assert_allclose(weights[token], [weight for _, weight in expected], rtol=1e-5)


def _route_one(
    logits: np.ndarray, router: Router, bias: np.ndarray | None
) -> list[tuple[int, float]]:
    """The two experts of one token, and their weights, the plain way."""
    scores = 1 / (1 + np.exp(-logits))
    if router.score == "softmax":
        scores = np.exp(logits) / np.exp(logits).sum()
    merit = scores if bias is None else scores + bias
    size = len(logits) // router.groups
    worth = [sorted(merit[at : at + size])[-2:] for at in range(0, len(logits), size)]
    best = sorted(range(router.groups), key=lambda g: -sum(worth[g]))[: router.active_groups]
    allowed = [expert for expert in range(len(logits)) if expert // size in best]
    chosen = sorted(allowed, key=lambda expert: -merit[expert])[:2]
    total = sum(scores[expert] for expert in chosen) if router.normalise else 1.0
    return [(expert, router.scale * scores[expert] / total) for expert in chosen]


def test_of_equal_experts_the_first_are_chosen() -> None:
    router = Router(score="softmax", normalise=True)
    weights, chosen = route(torch.zeros(3, 16), router=router, active=4)
    assert chosen.tolist() == [[0, 1, 2, 3]] * 3
    assert torch.equal(weights, torch.full((3, 4), 0.25))


def test_scores_that_vanish_give_no_nan() -> None:
    router = Router(score="sigmoid", normalise=True)
    weights, _ = route(torch.full((1, 4), -200.0), router=router, active=2)
    assert torch.equal(weights, torch.zeros(1, 2))


def test_the_choice_is_learned_through_its_weights() -> None:
    logits = torch.tensor([[2.0, 1.0, -1.0, 0.5]], requires_grad=True)
    router = Router(score="softmax", normalise=False)
    weights, chosen = route(logits, router=router, active=2)
    weights[0, 0].backward()
    assert chosen.tolist() == [[0, 1]]
    assert logits.grad is not None
    assert logits.grad[0, 0] > 0
    assert (logits.grad[0, 1:] < 0).all()


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("qwen3-moe", "num_local_experts", 4, "has shape .* the model needs"),
        ("qwen3-moe", "num_local_experts", 12, r"mlp\.gate\.weight' has shape \(9, 64\)"),
        ("qwen3-moe", "num_local_experts", 10**6, "whole number from 1 to 4096"),
        ("qwen3-moe", "num_experts_per_tok", 10, "10 active experts"),
        ("qwen3-moe", "moe_intermediate_size", 47, r"experts\.0\..* the model needs"),
        ("qwen3-moe", "mlp_only_layers", [0, -1], "must be a list of whole numbers"),
        ("qwen3-moe", "mlp_only_layers", "all", "must be a list of whole numbers"),
        ("qwen3-moe", "decoder_sparse_step", 0, "must be a whole number"),
        ("qwen3-moe", "norm_topk_prob", 1, "must be true or false"),
        ("qwen3-moe", "hidden_act", "gelu", "must be one of silu"),
        ("qwen3-moe", "attention_bias", True, "not supported"),
        ("lfm2-moe", "num_dense_layers", -1, "must be a whole number"),
        ("lfm2-moe", "num_dense_layers", 2, r"no tensor 'model\.layers\.1\.feed_forward\.w1"),
        ("lfm2-moe", "routed_scaling_factor", "x", "must be a positive number"),
        ("deepseek-v3", "n_group", 3, "don't go with 3 groups"),
        ("deepseek-v3", "n_group", 8, "must have two or more"),
        ("deepseek-v3", "topk_group", 5, "don't go with 4 groups"),
        ("deepseek-v3", "num_experts_per_tok", 5, "hold only 4"),
        ("deepseek-v3", "n_shared_experts", 2, "shared_experts.* the model needs"),
    ],
)
def test_bad_hyperparameters_are_named(
    name: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    FAMILIES[name](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["qwen3-moe", "lfm2-moe", "qwen3-next", "deepseek-v3"])
def test_experts_that_transformers_stacked_are_the_same(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name](tmp_path / "each")
    model.save_pretrained(tmp_path / "stacked", save_original_format=False)
    each, stacked = open_checkpoint(tmp_path / "each"), open_checkpoint(tmp_path / "stacked")
    assert len(load_file(tmp_path / "stacked" / "model.safetensors")) < len(
        load_file(tmp_path / "each" / "model.safetensors")
    )
    for weight in each.weights:
        np.testing.assert_array_equal(each.matrix(weight), stacked.matrix(weight))


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("qwen3-moe", {"num_local_experts": "num_experts"}),
        ("qwen3-next", {}),
        ("lfm2-moe", {"tie_word_embeddings": "tie_embedding"}),
        ("deepseek-v3-plain", {}),
    ],
)
def test_configs_as_they_were_first_published_say_the_same(
    name: str, renamed: dict[str, str], tmp_path: Path
) -> None:
    """Rotary settings stood outside, without an object; some keys had other names."""
    FAMILIES[name](tmp_path)
    expected = open_checkpoint(tmp_path).declaration
    config = json.loads((tmp_path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    del rope["rope_type"]
    config |= {"rope_scaling": None, **rope}
    config = {renamed.get(key, key): value for key, value in config.items()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(tmp_path).declaration == expected


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    FAMILIES["lfm2-moe"](tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.2.feed_forward.experts.5.w2.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"no tensor '.*2\.feed_forward\.experts\.5\.w2\.weight'"):
        open_checkpoint(tmp_path)


def test_experts_of_several_types_are_refused(tmp_path: Path) -> None:
    FAMILIES["qwen3-moe"](tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    odd = "model.layers.0.mlp.experts.3.up_proj.weight"
    save_file({**tensors, odd: tensors[odd].half()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"experts\.3\.up_proj.* is F16 .* the model needs F32"):
        open_checkpoint(tmp_path)
