"""Hyperparameters of hostile files: every one is checked, and only typed errors come out."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.errors import ModelError
from fluvial.model import checkpoint as checkpoint_module
from fluvial.model import gguf
from fluvial.model.architecture.field import Fields
from fluvial.model.architecture.name import list_shapes
from fluvial.model.checkpoint import open_checkpoint
from tests.convert import write_gguf
from tests.families import FAMILIES

HOSTILE: list[Any] = [
    None,
    True,
    0,
    -1,
    3,
    2**70,
    1e-320,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x" * 1000,
    [],
    [0],
    [[]],
    {},
    {"factor": -1},
]


@pytest.mark.parametrize(
    "name",
    [
        "llama-llama3",
        "llama-yarn",
        "qwen2-sliding",
        "gemma3",
        "lfm2-moe",
        "qwen3-moe",
        "qwen3-next",
        "deepseek-v3",
    ],
)
def test_a_hostile_config_gives_a_typed_error_or_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FAMILIES[name](tmp_path)
    monkeypatch.setattr(checkpoint_module, "hash_files", lambda _: "")
    # Copying the tensors is the slow part; the shapes they must have still come of the config.
    monkeypatch.setattr(
        checkpoint_module, "collect", lambda _, *, declaration, names: list_shapes(declaration)
    )
    config = json.loads((tmp_path / "config.json").read_text())
    refused = 0
    for changed in _vary(config):
        (tmp_path / "config.json").write_text(json.dumps(changed))
        try:
            open_checkpoint(tmp_path)
        except ModelError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("name", ["llama-llama3", "llama-yarn", "gemma3", "lfm2"])
def test_hostile_metadata_gives_a_typed_error_or_a_model(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(FAMILIES[name](tmp_path / "folder"), tmp_path / "model.gguf")
    file = gguf.read(path)
    arrays = [np.zeros(0), np.zeros(3, np.int32), np.ones(10**5, np.float32), np.array([True])]
    refused = 0
    for changed in _vary(file.metadata, [*HOSTILE, *arrays]):
        hostile = replace(file, metadata=changed)
        monkeypatch.setattr(checkpoint_module.gguf, "read", lambda _, file=hostile: file)
        try:
            open_checkpoint(path)
        except ModelError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("factors", [[0.0, 1.0], [float("nan")] * 8, [-1.0] * 8, [1.0] * 9])
def test_hostile_rope_factors_are_refused(
    factors: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_gguf(FAMILIES["llama"](tmp_path / "folder"), tmp_path / "model.gguf")
    file = gguf.read(path)
    values = np.array(factors, np.float32)
    tensor = gguf.RawTensor("rope_freqs.weight", "F32", values.shape, values.view(np.uint8)[None])
    hostile = replace(file, tensors={**file.tensors, tensor.name: tensor})
    monkeypatch.setattr(checkpoint_module.gguf, "read", lambda _: hostile)
    with pytest.raises(ModelError, match=r"rope_freqs\.weight"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("family", "key", "value", "message"),
    [
        ("llama", "attention_bias", True, "attention_bias is True; it must be false"),
        ("llama", "hidden_act", "relu", "must be one of silu"),
        ("llama", "head_dim", 10**6, "head_dim is 1000000; it must be a whole number"),
        ("qwen2", "layer_types", ["full_attention"], "must be 2 words of sliding_attention, full"),
        ("gemma3", "attn_logit_softcapping", 50.0, "must be absent"),
        ("gemma3", "use_bidirectional_attention", True, "must be false"),
        ("gemma3", "rope_parameters", {"sliding_attention": [1]}, "must be an object"),
        ("lfm2", "conv_bias", True, "must be false"),
        ("lfm2", "conv_L_cache", 1, "a convolution of 1 taps; it must have 2 to 64"),
    ],
)
def test_the_key_and_what_would_be_right_are_named(
    family: str, key: str, value: object, message: str, tmp_path: Path
) -> None:
    FAMILIES[family](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(ModelError, match=message):
        open_checkpoint(tmp_path)


def test_per_layer_counts_come_from_a_list_or_one_number() -> None:
    fields = _fields({"f.kv": np.array([2, 0, 2], np.int32), "f.one": 4})
    assert fields.counts("kv", 3) == [2, 0, 2]
    assert fields.counts("one", 2) == [4, 4]
    with pytest.raises(ModelError, match=r"f\.kv is .* it must be 2 whole numbers"):
        fields.counts("kv", 2)


def _fields(values: Mapping[str, object]) -> Fields:
    return Fields(
        values=values,
        prefix="f.",
        keys={"kv": "kv", "one": "one"},
        family="f",
        vocab_size=3,
        tied_head=False,
        in_gguf=True,
    )


def _vary(values: Mapping[str, Any], hostile: list[Any] = HOSTILE) -> Iterator[dict[str, Any]]:
    """Yield the values with one of them, at any depth, missing or put in a hostile one's place."""
    for key, value in values.items():
        yield {name: each for name, each in values.items() if name != key}
        for bad in hostile:
            yield {**values, key: bad}
        if isinstance(value, dict):
            yield from ({**values, key: inner} for inner in _vary(value, hostile))
