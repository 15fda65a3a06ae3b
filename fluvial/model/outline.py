"""Models that no declaration covers: what Fluvial needs of one without loading PyTorch.

Such a folder runs through `transformers` (`fallback.py`), in processes of their own. Here is what
the others need: which linears an adapter may change, and how long a context may be. A child
process finds that from config.json alone, without reading a weight. Nothing that a folder brings
along is run, no pickle is read, no hub is asked.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from fluvial.errors import ModelError
from fluvial.model import safetensor
from fluvial.model.architecture import FAMILIES
from fluvial.model.architecture.declaration import Group
from fluvial.model.tokenizer_folder import read_json

FAMILY_PREFIX = "transformers:"
ON_TRANSFORMERS, ON_OWN_ENGINE = "transformers (slower)", "the packed graph"
INSTALL = "pip install 'fluvial[transformers]'"
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
MAX_CONFIG_BYTES = 4 * 2**20
MAX_LAYERS = 1024
SURVEY_LIMIT_S = 300.0

_LAYER_KEYS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True, kw_only=True)
class OutlineLayer:
    """One block, as an adapter sees it; group names are paths of modules, each with one part."""

    groups: tuple[Group, ...]
    gain_width: int = 0


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A whole decoder, as an adapter sees it. `family` is "transformers:" and the model type."""

    family: str
    vocab_size: int
    width: int
    context_tokens: int
    layers: tuple[OutlineLayer, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class OutlinedCheckpoint:
    """A folder at rest that runs on transformers: the sibling of `Checkpoint`."""

    path: Path
    sha256: str
    declaration: Outline
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])


def is_outlined(path: Path) -> bool:
    """Tell whether `path` is a model folder of a family that no declaration covers."""
    if not (path / "config.json").is_file():
        return False
    model_type = read_json(path / "config.json", limit_bytes=MAX_CONFIG_BYTES).get("model_type")
    return all(family.config != model_type for family in FAMILIES)


def name_runtime(path: Path) -> str:
    """Say what runs the model at `path`, for people to read."""
    try:
        return ON_TRANSFORMERS if is_outlined(path) else ON_OWN_ENGINE
    except ModelError:
        return "nothing: its config.json is damaged"


def open_outlined(path: Path, *, sha256: str) -> OutlinedCheckpoint:
    """Open a safetensors folder (named by `sha256`) that is to run on transformers.

    Raises ModelError when transformers is missing or does not know the family, when the folder
    is damaged, or when it can only be run with code or pickles of its own.
    """
    model_type = check_folder(path)
    if importlib.util.find_spec("transformers") is None:
        raise ModelError(
            f"model family {model_type!r} runs on transformers, which is not installed; "
            f"install it with: {INSTALL}"
        )
    return OutlinedCheckpoint(path=path, sha256=sha256, declaration=_survey(path))


def check_folder(path: Path) -> str:
    """Refuse what must not reach transformers; return the folder's model type.

    Raises ModelError for weights that are not safetensors, quantised or adapter folders, and
    sizes out of bounds.
    """
    config = read_json(path / "config.json", limit_bytes=MAX_CONFIG_BYTES)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError("config.json does not name the model's family (model_type)")
    if "quantization_config" in config:
        raise ModelError(
            f"this {model_type} folder is quantised (quantization_config); "
            "only float weights run on transformers here"
        )
    if (path / "adapter_config.json").exists():
        raise ModelError("the folder holds a PEFT adapter; only whole models can be run")
    _check_sizes(config)
    _check_weights(path)
    return model_type


def encode_outline(outline: Outline) -> str:
    """Write an outline as JSON."""
    return json.dumps(asdict(outline))


def decode_outline(text: str) -> Outline:
    """Read what `encode_outline` wrote."""
    table: Any = json.loads(text)
    table["layers"] = tuple(_decode_layer(layer) for layer in table["layers"])
    return Outline(**table)


def _decode_layer(table: Any) -> OutlineLayer:
    for group in table["groups"]:
        group["parts"] = tuple((name, outputs) for name, outputs in group["parts"])
    groups = tuple(Group(**group) for group in table["groups"])
    return OutlineLayer(groups=groups, gain_width=table["gain_width"])


def _check_sizes(config: dict[str, Any]) -> None:
    inner = config.get("text_config")
    for table in (config, cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}):
        for key in _LAYER_KEYS:
            value = table.get(key, 1)
            if type(value) is not int or not 1 <= value <= MAX_LAYERS:
                raise ModelError(
                    f"config.json: {key} is {str(value)[:40]}; "
                    f"it must be a whole number from 1 to {MAX_LAYERS}"
                )


def _check_weights(path: Path) -> None:
    pickles = sorted(file.name for file in path.iterdir() if file.suffix in (".bin", ".pt", ".pth"))
    if pickles and not any(path.glob("*.safetensors")):
        raise ModelError(
            f"the weights are a pickle ({pickles[0]}), which could run code and is never loaded; "
            "convert them to safetensors"
        )
    safetensor.read(path)
    index = path / "model.safetensors.index.json"
    if not index.exists():
        return
    shards: Any = read_json(index, limit_bytes=64 * 2**20).get("weight_map")
    names = set(cast("dict[str, Any]", shards).values()) if isinstance(shards, dict) else {None}
    present = {file.name for file in path.glob("*.safetensors")}
    foreign = sorted(str(name)[:80] for name in names if name not in present)
    if foreign:
        raise ModelError(f"{index.name} names {foreign[0]!r}, which is no weight file here")


def _survey(path: Path) -> Outline:
    try:
        ended = subprocess.run(  # noqa: S603  our own program, no shell
            [sys.executable, "-m", "fluvial.model.fallback", str(path)],
            capture_output=True,
            text=True,
            timeout=SURVEY_LIMIT_S,
            check=False,
            env={**os.environ, **OFFLINE},
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"transformers took over {SURVEY_LIMIT_S:g} s on config.json") from None
    try:
        reply = json.loads(ended.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise ModelError(
            f"transformers can't be run (exit code {ended.returncode}): {ended.stderr[-300:]}"
        ) from None
    if "error" in reply:
        raise ModelError(reply["error"])
    return decode_outline(reply["outline"])
