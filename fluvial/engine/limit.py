"""The ranges of `Sampling`, checked in one place before anything is generated."""

import reprlib
from typing import Any

from fluvial.errors import InputError
from fluvial.types import Sampling

MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_CHARS = 256
MAX_STOP_TOKENS = 64
MAX_LOGIT_BIASES = 1024
MAX_LOGPROBS = 20
_SEED_LIMIT = 2**63

_NUMBERS = {
    "temperature": (0.0, MAX_TEMPERATURE),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}
_INTEGERS = {
    "top_k": (0, _SEED_LIMIT - 1),
    "seed": (-_SEED_LIMIT, _SEED_LIMIT - 1),
    "max_tokens": (1, _SEED_LIMIT - 1),
    "logprobs": (0, MAX_LOGPROBS),
}
_OPTIONAL = ("seed", "max_tokens", "logprobs")


def validate(sampling: Sampling, *, vocab_size: int | None = None) -> None:
    """Check all of `sampling`; raise InputError naming the field, the value and its range.

    Token ids are checked against `vocab_size` where it is given.
    """
    for name, (low, high) in _NUMBERS.items():
        _require_number(name, getattr(sampling, name), low=low, high=high)
    for name in ("top_p", "typical_p"):
        if getattr(sampling, name) == 0:
            raise InputError(f"{name} must be over 0 and at most 1, not 0", param=name)
    for name, (low, high) in _INTEGERS.items():
        value = getattr(sampling, name)
        if value is not None or name not in _OPTIONAL:
            _require_integer(name, value, low=low, high=high)
    _validate_stops(sampling.stop)
    high = (_SEED_LIMIT if vocab_size is None else vocab_size) - 1
    _validate_tokens("stop_token_ids", sampling.stop_token_ids, most=MAX_STOP_TOKENS, high=high)
    _validate_biases(sampling.logit_bias, high=high)
    if sampling.ignore_eos and sampling.grammar is not None:
        raise InputError(
            "ignore_eos can't be used with a grammar, which says itself where the answer ends",
            param="ignore_eos",
        )


def _require_number(name: str, value: Any, *, low: float, high: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        raise InputError(
            f"{name} must be a number from {low:g} to {high:g}, not {value!r}", param=name
        )


def _require_integer(name: str, value: Any, *, low: int, high: int) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise InputError(
            f"{name} must be a whole number from {low} to {high}, not {reprlib.repr(value)}",
            param=name,
        )


def _require_tuple(name: str, value: Any, *, most: int, of: str) -> None:
    if not isinstance(value, tuple) or len(value) > most:  # type: ignore[arg-type]
        raise InputError(
            f"{name} must be a tuple of at most {most} {of}, not {reprlib.repr(value)}", param=name
        )


def _validate_stops(stops: Any) -> None:
    _require_tuple("stop", stops, most=MAX_STOPS, of="strings")
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARS:
            raise InputError(
                f"each stop string must have 1 to {MAX_STOP_CHARS} characters, unlike "
                f"{reprlib.repr(stop)}",
                param="stop",
            )


def _validate_tokens(name: str, tokens: Any, *, most: int, high: int) -> None:
    _require_tuple(name, tokens, most=most, of="token ids")
    for token in tokens:
        _require_integer(name, token, low=0, high=high)


def _validate_biases(biases: Any, *, high: int) -> None:
    _require_tuple("logit_bias", biases, most=MAX_LOGIT_BIASES, of="(token id, bias) pairs")
    for token, bias in biases:
        _require_integer("logit_bias", token, low=0, high=high)
        _require_number("logit_bias", bias, low=-100.0, high=100.0)
    if len({token for token, _ in biases}) != len(biases):
        raise InputError("logit_bias names a token twice", param="logit_bias")
