"""One file a family: what its blocks are and how files name their weights."""

from types import ModuleType

from fluvial.errors import ModelError
from fluvial.model.architecture import llama, qwen2

_FAMILIES: tuple[ModuleType, ...] = (llama, qwen2)


def find_family(name: object, *, by: str) -> ModuleType:
    """Return the family whose `by` (GGUF_NAME or CONFIG_NAME) is `name`; ModelError lists all."""
    for family in _FAMILIES:
        if getattr(family, by) == name:
            return family
    known = ", ".join(getattr(family, by) for family in _FAMILIES)
    raise ModelError(f"model family {name!r} is not supported; supported are {known}")
