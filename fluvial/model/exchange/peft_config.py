"""Read and write PEFT's adapter_config.json: the scale of each linear, and what is refused.

Fields that only bear on training are let be; one that would change what the model computes is
refused by its name, and so is any field that is not known here unless it is off.

Source: https://github.com/huggingface/peft, src/peft/tuners/lora/config.py and layer.py.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from fluvial.errors import ModelError, UnsupportedError
from fluvial.model.exchange.file import check_incoming
from fluvial.model.exchange.pattern import Pattern, parse_pattern
from fluvial.model.exchange.term import MAX_ALPHA, MAX_RANK

T = TypeVar("T")

CONFIG_FILE = "adapter_config.json"
MAX_CONFIG_BYTES = 2**20

_READ_HERE = {
    "alpha_pattern",
    "bias",
    "init_lora_weights",
    "lora_alpha",
    "peft_type",
    "r",
    "rank_pattern",
    "use_rslora",
}
_BEARS_ON_TRAINING = {
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",
    "task_type",
}
# The others begin with terms that are not zero, or with base weights that are not the model's.
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True, kw_only=True)
class PeftConfig:
    """What a LoRA's config says of its terms. Patterns are asked in order; the first counts."""

    rank: int
    alpha: float
    root: bool
    ranks: tuple[tuple[Pattern, int], ...] = ()
    alphas: tuple[tuple[Pattern, float], ...] = ()

    def find_rank(self, name: str) -> int:
        """Return the rank of the linear `name`, such as `model.layers.0.self_attn.q_proj`."""
        return next((rank for pattern, rank in self.ranks if pattern.matches(name)), self.rank)

    def find_scale(self, name: str) -> float:
        """Return what B is multiplied by: alpha over the rank, or over its root."""
        found = (alpha for pattern, alpha in self.alphas if pattern.matches(name))
        rank = self.find_rank(name)
        return next(found, self.alpha) / (math.sqrt(rank) if self.root else rank)


def read_config(path: Path) -> PeftConfig:
    """Read adapter_config.json.

    Raises ModelError when it is damaged or out of range, UnsupportedError when it asks for more
    than plain LoRA.
    """
    check_incoming(path, limit_bytes=MAX_CONFIG_BYTES)
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} can't be read as JSON: {error!s:.200}") from None
    if not isinstance(config, dict):
        raise ModelError(f"{path.name} must hold a JSON object")
    return _parse(cast("dict[str, Any]", config))


def _parse(config: Mapping[str, Any]) -> PeftConfig:
    _refuse(config)
    rank = _read_rank("r", config.get("r", 8))
    return PeftConfig(
        rank=rank,
        alpha=_read_alpha("lora_alpha", config.get("lora_alpha", 8)),
        root=_read_flag(config, "use_rslora"),
        ranks=_read_table(config, "rank_pattern", _read_rank),
        alphas=_read_table(config, "alpha_pattern", _read_alpha),
    )


def _refuse(config: Mapping[str, Any]) -> None:
    """Raise UnsupportedError, naming it, for anything that plain LoRA does not have."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(
            f"peft_type is {config.get('peft_type')!r:.60}; only 'LORA' can be imported",
            param="peft_type",
        )
    if config.get("bias", "none") != "none":
        raise _off("bias", config["bias"], "'none'")
    start = config.get("init_lora_weights")
    if not isinstance(start, str | bool | None) or start not in _PLAIN_STARTS:
        raise _off("init_lora_weights", start, "true: others change the base weights")
    for field in sorted(config.keys() - _READ_HERE - _BEARS_ON_TRAINING):
        if config[field]:
            raise _off(field, config[field], "off: only plain LoRA can be imported")


def _off(field: str, value: object, needed: str) -> UnsupportedError:
    return UnsupportedError(
        f"{CONFIG_FILE}: {field:.80} is {value!r:.80}; it must be {needed}", param=field[:80]
    )


def _read_rank(field: str, value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_RANK:
        raise ModelError(
            f"{CONFIG_FILE}: {field} is {value!r:.80}; it must be a whole number "
            f"from 1 to {MAX_RANK}"
        )
    return value


def _read_alpha(field: str, value: object) -> float:
    if type(value) not in (int, float) or not abs(cast(float, value)) <= MAX_ALPHA:
        raise ModelError(
            f"{CONFIG_FILE}: {field} is {value!r:.80}; it must be a number up to {MAX_ALPHA:g}"
        )
    return float(cast(float, value))


def _read_flag(config: Mapping[str, Any], field: str) -> bool:
    value = config.get(field, False)
    if not isinstance(value, bool):
        raise ModelError(f"{CONFIG_FILE}: {field} is {value!r:.80}; it must be true or false")
    return value


def _read_table(
    config: Mapping[str, Any], field: str, read: Callable[[str, object], T]
) -> tuple[tuple[Pattern, T], ...]:
    value = config.get(field) or {}
    if not isinstance(value, dict):
        raise ModelError(f"{CONFIG_FILE}: {field} is {value!r:.80}; it must be an object")
    entries = cast("dict[str, object]", value).items()
    return tuple((parse_pattern(key), read(f"{field}[{key!r:.80}]", each)) for key, each in entries)
