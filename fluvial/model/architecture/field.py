"""Read a checkpoint's hyperparameters from GGUF metadata or config.json, bounds checked.

A family asks by our names; `keys` says what the file calls them. Files are hostile: each value's
type and range is checked here, and a ModelError names the key, the value, and what would be right.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fluvial.errors import ModelError

MAX_COUNT = 2**24
MAX_LAYERS = 1024
MAX_HEADS = 4096
MAX_HEAD_WIDTH = 8192
MIN_NUMBER, MAX_NUMBER = 1e-12, 1e12


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The hyperparameters of one checkpoint. `prefix` stands before each key (GGUF: `llama.`).

    `rope_factors` are GGUF's divisors of the rotary frequencies, one a pair, where it has them.
    """

    values: Mapping[str, object]
    prefix: str
    keys: Mapping[str, str | None]
    family: str
    vocab_size: int
    tied_head: bool
    in_gguf: bool
    rope_factors: tuple[float, ...] | None = None

    def get(self, name: str) -> object:
        """Return the value as the file has it; None when it is not there, or null."""
        key = self.keys.get(name)
        return None if key is None else self.values.get(self.prefix + key)

    def error(self, name: str, needed: str) -> ModelError:
        """Return the error that says what this value is and what it must be."""
        key = self.keys.get(name) or name
        return ModelError(f"{self.prefix}{key} is {self.get(name)!r:.100}; it must be {needed}")

    def count(
        self,
        name: str,
        *,
        default: int | None = None,
        at_least: int = 1,
        at_most: int = MAX_COUNT,
    ) -> int:
        """Return a whole number; raises ModelError when missing or out of range."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not at_least <= value <= at_most:
            raise self.error(name, f"a whole number from {at_least} to {at_most}")
        return value

    def counts(self, name: str, length: int, *, at_most: int = MAX_COUNT) -> list[int]:
        """Return one whole number (0 included) for each of `length` layers; one stands for all."""
        value = self.get(name)
        if isinstance(value, np.ndarray):
            value = value.tolist()
        if not isinstance(value, list):
            return [self.count(name, at_most=at_most)] * length
        if len(value) != length or not all(type(n) is int and 0 <= n <= at_most for n in value):
            raise self.error(name, f"{length} whole numbers up to {at_most}")
        return value

    def number(
        self,
        name: str,
        *,
        default: float | None = None,
        at_least: float = MIN_NUMBER,
        at_most: float = MAX_NUMBER,
    ) -> float:
        """Return a positive number; raises ModelError when missing or out of range."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(name, "a positive number")
        if not at_least <= value <= at_most:
            raise self.error(name, f"a positive number from {at_least:g} to {at_most:g}")
        return float(value)

    def find_number(self, name: str) -> float | None:
        """Return a positive number, or None where the file has none (or zero, which means off)."""
        value = self.get(name)
        if value is None or (isinstance(value, int | float) and value == 0):
            return None
        return self.number(name)

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a boolean; raises ModelError for anything else."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def choice(self, name: str, known: Sequence[str], *, default: str) -> str:
        """Return one of the `known` words; raises ModelError for any other."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in known:
            raise self.error(name, f"one of {', '.join(known)}")
        return value

    def choices(self, name: str, known: Sequence[str], *, length: int) -> list[str] | None:
        """Return one of the `known` words for each of `length` layers, or None without them."""
        value = self.get(name)
        if value is None:
            return None
        words = _words(value) if isinstance(value, list) else []
        if len(words) != length or not set(words) <= set(known):
            raise self.error(name, f"{length} words of {', '.join(known)}")
        return words

    def indices(self, name: str, *, at_most: int) -> set[int] | None:
        """Return the whole numbers, each up to `at_most`, that a list holds; None without one."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not all(
            type(n) is int and 0 <= n <= at_most for n in value
        ):
            raise self.error(name, f"a list of whole numbers up to {at_most}")
        return set(value)

    def refuse(self, *names: str) -> None:
        """Raise ModelError if one of these flags is set: what it asks for is not implemented."""
        for name in names:
            if self.flag(name):
                raise self.error(name, "false; the variant it asks for is not supported")

    def inside(self, name: str) -> Mapping[str, Any]:
        """Return the object under a key of config.json; empty when it is not there."""
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.error(name, "an object")
        return value

    def enter(self, values: object, *, prefix: str) -> "Fields":
        """Return fields read from an object by its own keys, named after `prefix` in errors."""
        if not isinstance(values, dict):
            raise ModelError(f"{prefix.rstrip('.')} is {values!r:.100}; it must be an object")
        keys = {key: key for key in values}
        named = {prefix + key: value for key, value in values.items()}
        return replace(self, values=named, prefix=prefix, keys=keys)


def _words(value: list[object]) -> list[str]:
    return [word if isinstance(word, str) else "" for word in value]


def is_finite(values: Sequence[float]) -> bool:
    """Say whether all values are finite and positive."""
    return all(math.isfinite(value) and value > 0 for value in values)
