"""Rotary frequencies from a checkpoint's hyperparameters, long-context scaling included.

The kinds of scaling are those of `transformers` (modeling_rope_utils.py): linear divides every
frequency; llama3 divides the slow ones and blends between; yarn (arXiv 2309.00071) blends by the
turns a pair makes over the original context. GGUF gives llama3's as ready divisors.
"""

import math

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Rotary, rotate
from fluvial.model.architecture.field import MAX_NUMBER, Fields

MIN_THETA = 1.0
KINDS = ("default", "linear", "llama3", "yarn")


def declare_rotary(
    fields: Fields,
    *,
    width: int,
    theta: float = 10_000.0,
    start: int = 0,
    interleaved: bool = False,
) -> Rotary:
    """Return the rotary positions over `width` features that the checkpoint asks for.

    `theta` is the base where the checkpoint names none. Raises ModelError for unknown scaling.
    """
    theta = fields.number("rope_theta", default=theta, at_least=MIN_THETA)
    if fields.in_gguf:
        plain = rotate(width=width, theta=theta, start=start, interleaved=interleaved)
        return _scale_gguf(fields, plain, theta)
    rope = fields.inside("rope_parameters") or fields.inside("rope_scaling")
    return read_rotary(fields, rope, width=width, theta=theta, start=start, interleaved=interleaved)


def read_rotary(
    fields: Fields,
    rope: object,
    *,
    width: int,
    theta: float,
    start: int = 0,
    interleaved: bool = False,
) -> Rotary:
    """Return the rotary positions of one `rope_parameters` object of config.json.

    `theta` is the base where it names none. Raises ModelError when it is no such object.
    """
    inner = fields.enter(rope, prefix="rope_parameters.")
    theta = inner.number("rope_theta", default=theta, at_least=MIN_THETA)
    plain = rotate(width=width, theta=theta, start=start, interleaved=interleaved)
    kind = inner.choice("type", KINDS, default="default")
    kind = inner.choice("rope_type", KINDS, default=kind)
    if kind == "default":
        return plain
    return _SCALERS[kind](inner, plain, theta, fields.count("context_tokens"))


def _scale_gguf(fields: Fields, plain: Rotary, theta: float) -> Rotary:
    if fields.rope_factors is not None:
        if len(fields.rope_factors) != len(plain.frequencies):
            raise ModelError(
                f"rope_freqs.weight has {len(fields.rope_factors)} values; "
                f"it must have {len(plain.frequencies)}"
            )
        return _replace(
            plain, [f / d for f, d in zip(plain.frequencies, fields.rope_factors, strict=True)]
        )
    keys = {
        "rope_type": "rope.scaling.type",
        "factor": "rope.scaling.factor",
        "original_max_position_embeddings": "rope.scaling.original_context_length",
    }
    values = {ours: fields.values.get(fields.prefix + key) for ours, key in keys.items()}
    inner = fields.enter(values, prefix=f"{fields.prefix}rope.scaling.")
    kind = inner.choice("rope_type", ("none", "linear", "yarn"), default="none")
    if kind == "none":
        return plain
    return _SCALERS[kind](inner, plain, theta, fields.count("context_tokens"))


def _scale_linear(inner: Fields, plain: Rotary, theta: float, context_tokens: int) -> Rotary:
    factor = inner.number("factor")
    return _replace(plain, [frequency / factor for frequency in plain.frequencies])


def _scale_llama3(inner: Fields, plain: Rotary, theta: float, context_tokens: int) -> Rotary:
    factor, low = inner.number("factor"), inner.number("low_freq_factor")
    high = inner.number("high_freq_factor")
    original = inner.count("original_max_position_embeddings", default=context_tokens)
    if high <= low:
        raise inner.error("high_freq_factor", f"greater than low_freq_factor, which is {low}")

    def scale(frequency: float) -> float:
        turns = original * frequency / (2 * math.pi)
        blend = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * ((1 - blend) / factor + blend)

    return _replace(plain, [scale(frequency) for frequency in plain.frequencies])


def _scale_yarn(inner: Fields, plain: Rotary, theta: float, context_tokens: int) -> Rotary:
    original = inner.count("original_max_position_embeddings", default=context_tokens)
    factor = inner.number("factor", default=max(context_tokens / original, 1.0))
    fast, slow = inner.number("beta_fast", default=32.0), inner.number("beta_slow", default=1.0)
    low, high = (_find_pair(turns, plain, theta, original) for turns in (fast, slow))
    if inner.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * len(plain.frequencies) - 1)
    span = high - low or 0.001
    frequencies: list[float] = []
    for index, frequency in enumerate(plain.frequencies):
        blend = min(max((index - low) / span, 0.0), 1.0)
        frequencies.append(frequency * (blend / factor + 1 - blend))
    return _replace(plain, frequencies, magnitude=_find_magnitude(inner, factor))


def _find_pair(turns: float, plain: Rotary, theta: float, original: int) -> float:
    """Return the (fractional) pair that makes `turns` turns over the original context."""
    if theta <= 1:
        raise ModelError(f"the rotary base is {theta}; with yarn it must be greater than 1")
    return len(plain.frequencies) * math.log(original / (turns * 2 * math.pi)) / math.log(theta)


def _find_magnitude(inner: Fields, factor: float) -> float:
    def grow(scale: float) -> float:
        return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = inner.find_number("attention_factor")
    if given is not None:
        return given
    mscale, of_all = inner.find_number("mscale"), inner.find_number("mscale_all_dim")
    if mscale is not None and of_all is not None:
        return grow(mscale) / grow(of_all)
    return grow(1.0)


def _replace(plain: Rotary, frequencies: list[float], *, magnitude: float = 1.0) -> Rotary:
    if not all(0 < frequency < MAX_NUMBER for frequency in frequencies):
        raise ModelError("the checkpoint's rotary frequencies are not positive and finite")
    return Rotary(
        frequencies=tuple(frequencies),
        start=plain.start,
        interleaved=plain.interleaved,
        magnitude=magnitude,
    )


_SCALERS = {"linear": _scale_linear, "llama3": _scale_llama3, "yarn": _scale_yarn}
