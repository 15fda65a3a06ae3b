"""Where a model's parts lie in the memories that the engine and the graph share.

Three pools: pages of keys and values (16 tokens in each, in 8 or 16 bits), states of
convolutions and recurrences (float32, one slot a sequence), and adapters (float32, one slot each).
The orders inside are those of `native/source/attention.h`, `op_short_conv.c`, `op_gated_delta.c`
and `adapter.h`.
"""

from dataclasses import dataclass
from typing import Literal

from fluvial.model.architecture.declaration import (
    Attention,
    Declaration,
    GatedDelta,
    LatentAttention,
    Mixer,
    ShortConv,
)

PAGE_TOKENS = 16
SLAB_PAGES = 64
"""Pages that lie together, cut into streams."""

CacheBits = Literal[8, 16]
_KEY_BLOCK = 32


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Keys and values as they are kept: widths of one head."""

    kv_heads: int
    key_width: int
    value_width: int

    def streams(self, bits: CacheBits) -> list[int]:
        """Return the bytes that one page holds of each head's keys and values, in order."""
        width = _fill(self.value_width, 16)
        if bits == 16:
            return [2 * PAGE_TOKENS * self.key_width, 2 * PAGE_TOKENS * width] * self.kv_heads
        blocks = _fill(self.key_width, _KEY_BLOCK) // _KEY_BLOCK
        keys = _fill(blocks * (_KEY_BLOCK + 2) * PAGE_TOKENS, 64)
        return [keys, _fill((width + 2) * PAGE_TOKENS, 64)] * self.kv_heads


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Offsets by layer index, and by `layers.N.GROUP` or `layers.N.gain` in an adapter.

    A slab of pages is cut into streams, each head's keys and each head's values: `streams` are the
    bytes that a page has of each, in order.
    `state_floats` and `gains` are whole sizes; an adapter of rank r takes
    `gains + r * units` floats, a group's A beginning at `gains + r * unit_of[group]`.
    """

    cache_bits: CacheBits
    streams: tuple[int, ...]
    state_floats: int
    state_offsets: dict[int, int]
    gains: int
    units: int
    gain_of: dict[str, int]
    unit_of: dict[str, int]

    @property
    def page_bytes(self) -> int:
        """Bytes that one page holds of all layers."""
        return sum(self.streams)

    def adapter_floats(self, rank: int) -> int:
        """Return the size of one adapter."""
        return self.gains + rank * self.units


def _fill(count: int, whole: int) -> int:
    return -(-count // whole) * whole


def find_offsets(declaration: Declaration, *, cache_bits: CacheBits) -> dict[int, int]:
    """Return where in a page each layer begins, in bytes."""
    offsets: dict[int, int] = {}
    taken = 0
    for index, layer in enumerate(declaration.layers):
        heads = find_heads(layer.mixer)
        if heads is not None:
            offsets[index] = taken
            taken += sum(heads.streams(cache_bits))
    return offsets


def find_heads(mixer: Mixer) -> Heads | None:
    """Return what a mixer keeps for each token; None for one that keeps a state instead."""
    if isinstance(mixer, Attention):
        width = mixer.head_width
        return Heads(kv_heads=mixer.kv_heads, key_width=width, value_width=width)
    if isinstance(mixer, LatentAttention):
        # Keys and values of all heads are made from the latent: what is kept is one wide head.
        key_width = mixer.kv_width + mixer.rotary_width
        return Heads(kv_heads=1, key_width=key_width, value_width=mixer.kv_width)
    return None


def count_state(mixer: Mixer) -> int:
    """Return the floats of a mixer's state; 0 for attention."""
    if isinstance(mixer, ShortConv):
        return mixer.width * (mixer.taps - 1)
    if isinstance(mixer, GatedDelta):
        memory = mixer.value_heads * mixer.key_width * mixer.value_width
        return mixer.conv_width * (mixer.taps - 1) + memory
    return 0


def choose_cache_bits(declaration: Declaration) -> CacheBits:
    """Return in how many bits a model's keys and values can be kept without harm.

    Where keys have a bias, it makes a few of their features many times larger than the others,
    which 8 bits beside them can't tell apart (Qwen2.5: perplexity 2 % worse).
    """
    mixers = [layer.mixer for layer in declaration.layers]
    biased = any(isinstance(mixer, Attention) and mixer.qkv.bias for mixer in mixers)
    return 16 if biased else 8


def lay_out(declaration: Declaration, *, cache_bits: CacheBits | None = None) -> Layout:
    """Give each layer its place in the three pools.

    `cache_bits`: how keys and values are kept; None for what `choose_cache_bits` says.
    """
    bits = choose_cache_bits(declaration) if cache_bits is None else cache_bits
    states: dict[int, int] = {}
    gain_of: dict[str, int] = {}
    unit_of: dict[str, int] = {}
    streams: list[int] = []
    floats = gains = units = 0
    for index, layer in enumerate(declaration.layers):
        heads = find_heads(layer.mixer)
        if heads is not None:
            streams += heads.streams(bits)
        elif count_state(layer.mixer):
            states[index] = floats
            floats += count_state(layer.mixer)
        if layer.gain_width:
            gain_of[f"layers.{index}.gain"] = gains
            gains += layer.gain_width
        for group in layer.groups:
            unit_of[f"layers.{index}.{group.name}"] = units
            units += group.inputs + group.outputs
    return Layout(
        cache_bits=bits,
        streams=tuple(streams),
        state_floats=floats,
        state_offsets=states,
        gains=gains,
        units=units,
        gain_of=gain_of,
        unit_of=unit_of,
    )
