"""Read a checkpoint's hyperparameters from GGUF metadata or config.json, bounds checked."""

from collections.abc import Mapping
from dataclasses import dataclass

from fluvial.errors import ModelError

MAX_COUNT = 2**24


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The hyperparameters of one checkpoint. `prefix` stands before each key (GGUF: `llama.`)."""

    values: Mapping[str, object]
    prefix: str
    family: str
    vocab_size: int
    tied_head: bool
    qkv_bias: bool

    def count(self, key: str, *, default: int | None = None, fallback: str | None = None) -> int:
        """Return a positive whole number; raises ModelError when missing or out of range."""
        value = self.values.get(self.prefix + key)
        if value is None and fallback is not None:
            return self.count(fallback)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_COUNT:
            raise ModelError(
                f"{self.prefix}{key} is {value!r}; it must be a whole number from 1 to {MAX_COUNT}"
            )
        return value

    def number(self, key: str, *, default: float | None = None) -> float:
        """Return a positive number; raises ModelError when missing or out of range."""
        value = self.values.get(self.prefix + key, default)
        if not isinstance(value, int | float) or not 0 < value < 1e12:
            raise ModelError(f"{self.prefix}{key} is {value!r}; it must be a positive number")
        return float(value)

    def rope_theta(self) -> float:
        """Return the rotary base from config.json, in its old or its new place."""
        rope = self.values.get("rope_parameters") or self.values.get("rope_scaling") or {}
        if not isinstance(rope, Mapping):
            raise ModelError(f"rope_parameters is {rope!r}; it must be an object")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ModelError(f"rotary scaling {kind!r} is not supported yet (only 'default' is)")
        theta = rope.get("rope_theta")
        if isinstance(theta, int | float) and theta > 0:
            return float(theta)
        return self.number("rope_theta", default=10_000.0)
