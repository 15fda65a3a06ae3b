"""One file a family: what its blocks are and how files name their weights."""

from fluvial.errors import ModelError
from fluvial.model.architecture import (
    deepseek_v3,
    gemma3,
    lfm2,
    lfm2_moe,
    llama,
    qwen2,
    qwen3,
    qwen3_moe,
    qwen3_next,
)
from fluvial.model.architecture.family import Family

FAMILIES: tuple[Family, ...] = (
    llama.FAMILY,
    qwen2.FAMILY,
    qwen3.FAMILY,
    gemma3.FAMILY,
    lfm2.FAMILY,
    lfm2_moe.FAMILY,
    qwen3_moe.FAMILY,
    qwen3_next.FAMILY,
    deepseek_v3.FAMILY,
)


def find_family(name: object, *, in_gguf: bool) -> Family:
    """Return the family that GGUF or config.json calls `name`; ModelError lists all."""
    names = {family.gguf if in_gguf else family.config: family for family in FAMILIES}
    if isinstance(name, str) and name in names:
        return names[name]
    raise ModelError(f"model family {name!r} is not supported; supported are {', '.join(names)}")
