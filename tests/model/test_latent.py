"""Latent attention: what it keeps of a token, how it scales, and its files."""

import json
import math
from pathlib import Path

import pytest
import torch

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import LatentAttention
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.module import Module
from tests.families import FAMILIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepseek")
    FAMILIES["deepseek-v3"](folder)
    return folder


def test_a_token_leaves_its_latent_and_one_turned_key(folder: Path) -> None:
    module = Module(open_checkpoint(folder))
    _, past = module.read(torch.arange(3, 20))
    assert [tuple(part.shape) for part in past.states[0]] == [(17, 32), (1, 17, 8)]


def test_keys_and_values_in_latents_are_the_absorbed_form(folder: Path) -> None:
    """Scores and sums over latents, with kv_up moved to the query and to the output."""
    module = Module(open_checkpoint(folder))
    latent = module.declaration.layers[0].mixer
    assert isinstance(latent, LatentAttention)
    mixer = module._blocks[0]._mixer
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(9, latent.kv_width, generator=generator)
    turned = torch.randn(1, 9, latent.rotary_width, generator=generator)
    q = torch.randn(latent.heads, latent.nope_width + latent.rotary_width, generator=generator)
    k, v = mixer._expand(latents, turned)  # type: ignore[attr-defined]
    plain = (torch.einsum("hw,htw->ht", q, k) * latent.scale).softmax(-1)
    up = mixer._kv_up.unflatten(0, (latent.heads, -1))  # type: ignore[attr-defined]
    up_k, up_v = up[:, : latent.nope_width], up[:, latent.nope_width :]
    absorbed = torch.einsum("hn,hnl->hl", q[:, : latent.nope_width], up_k)
    scores = absorbed @ latents.T + q[:, latent.nope_width :] @ turned[0].T
    weights = (scores * latent.scale).softmax(-1)
    torch.testing.assert_close(weights, plain)
    mixed = torch.einsum("hl,hvl->hv", weights @ latents, up_v)
    torch.testing.assert_close(mixed, torch.einsum("ht,htv->hv", plain, v))


def test_yarn_grows_the_scores_by_the_square_of_mscale(folder: Path, tmp_path: Path) -> None:
    latent = open_checkpoint(folder).declaration.layers[0].mixer
    assert isinstance(latent, LatentAttention)
    growth = 0.1 * math.log(4.0) + 1
    assert latent.scale == pytest.approx(growth**2 * (16 + 8) ** -0.5)
    assert latent.rotary.magnitude == 1.0
    assert latent.rotary.interleaved
    assert latent.rotary.start == latent.nope_width


def test_the_old_places_of_rotary_settings_are_read_too(folder: Path, tmp_path: Path) -> None:
    new = open_checkpoint(folder).declaration
    config = json.loads((folder / "config.json").read_text())
    rope = config.pop("rope_parameters")
    rope["type"] = rope.pop("rope_type")
    config |= {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}
    _copy(folder, tmp_path, config)
    assert open_checkpoint(tmp_path).declaration == new


def test_the_norms_inside_keep_their_own_epsilon(folder: Path, tmp_path: Path) -> None:
    """`transformers` gives them 1e-6 whatever rms_norm_eps says."""
    config = json.loads((folder / "config.json").read_text())
    _copy(folder, tmp_path, config | {"rms_norm_eps": 1e-2})
    declaration = open_checkpoint(tmp_path).declaration
    latent = declaration.layers[0].mixer
    assert isinstance(latent, LatentAttention)
    assert declaration.norm_epsilon == 1e-2
    assert latent.norm_epsilon == 1e-6


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("kv_lora_rank", 33, "kv_a_proj_with_mqa.* the model needs"),
        ("q_lora_rank", 47, "q_a_proj.* the model needs"),
        ("q_lora_rank", None, r"no tensor 'model\.layers\.0\.self_attn\.q_proj\.weight'"),
        ("q_lora_rank", 0, "must be a whole number"),
        ("qk_rope_head_dim", 7, "must be an even number"),
        ("qk_nope_head_dim", "16", "must be a whole number"),
        ("v_head_dim", 2**20, "must be a whole number"),
        ("num_key_value_heads", 2, "must be the number of heads, 4"),
        ("first_k_dense_replace", -1, "must be a whole number"),
        ("routed_scaling_factor", -1.0, "must be a positive number"),
        ("attention_bias", True, "not supported"),
        ("rope_parameters", {"rope_type": "yarn", "mscale_all_dim": 1.0}, "factor"),
        ("rope_parameters", {"rope_type": "su"}, "must be one of default"),
        ("rope_parameters", [1], "must be an object"),
    ],
)
def test_bad_hyperparameters_are_named(
    key: str, value: object, message: str, folder: Path, tmp_path: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    _copy(folder, tmp_path, config | {key: value})
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def _copy(folder: Path, target: Path, config: dict[str, object]) -> None:
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
