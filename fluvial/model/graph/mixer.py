"""Write the part of a layer that looks back: attention of two kinds, convolution, recurrence."""

import numpy as np
from numpy.typing import NDArray

from fluvial.model.architecture.declaration import (
    Attention,
    GatedDelta,
    LatentAttention,
    Mixer,
    Rotary,
    ShortConv,
)
from fluvial.model.graph.writer import DOMAIN, FINE_BITS, GraphWriter, Unread
from fluvial.model.layout import Heads, find_heads, find_offsets
from fluvial.model.packing import Floats, pack_floats

_STATE = ["state_pool", "state_slot", "row_of", "position"]


class MixerWriter:
    """Writes mixers; keeps one pair of rotary tables for all layers that turn alike."""

    def __init__(self, writer: GraphWriter, *, positions: int) -> None:
        self._writer = writer
        self._positions = positions
        self._tables: dict[Rotary, tuple[str, str]] = {}
        declaration = writer.checkpoint.declaration
        self._offsets = {
            16: find_offsets(declaration, cache_bits=16),
            8: find_offsets(declaration, cache_bits=8),
        }

    def write(self, index: int, mixer: Mixer, x: Unread) -> str:
        """Add the mixer of layer `index` and return what it adds to the residual."""
        match mixer:
            case Attention():
                return self._attention(index, mixer, x)
            case LatentAttention():
                return self._latent(index, mixer, self._writer.take(x))
            case ShortConv():
                return self._short_conv(index, mixer, x)
            case GatedDelta():
                return self._gated_delta(index, mixer, x)

    def _attention(self, index: int, mixer: Attention, x: Unread) -> str:
        writer, at = self._writer, f"layers.{index}"
        qkv = writer.linear(at, mixer.qkv, x, input_bits=FINE_BITS)
        gate = ""
        if mixer.has_gate:
            q = mixer.heads * mixer.head_width
            sizes = np.array([mixer.qkv.outputs - q, q], np.int64)
            split = writer.constant(f"{at}.split", sizes)
            qkv, gate = writer.nodes("Split", [qkv, split], [f"{at}.qkv", f"{at}.gate"], axis=-1)
        norms = [writer.vector(f"{at}.{each}_norm") if mixer.head_norm else "" for each in "qk"]
        attended = self._attend(
            index,
            mixer,
            qkv,
            heads=mixer.heads,
            norms=norms,
            start=mixer.rotary.start if mixer.rotary else 0,
            window=mixer.window,
            softcap=mixer.softcap,
        )
        if gate:
            switch = writer.node("Sigmoid", [gate], f"{at}.switch")
            attended = writer.node("Mul", [attended, switch], f"{at}.switched")
        return writer.linear(at, mixer.o, attended)

    def _latent(self, index: int, mixer: LatentAttention, x: str) -> str:
        """Attend in the latent space: queries go through the keys' half of kv_up, and what was
        attended through the values' half (DeepSeek-V2, arXiv 2405.04434, section 2.1.2)."""
        writer, at = self._writer, f"layers.{index}"
        heads, latent, turned = mixer.heads, mixer.kv_width, mixer.rotary_width
        if mixer.q_down is not None:
            x_q = writer.linear(at, mixer.q_down, x, input_bits=FINE_BITS)
            x_q = writer.norm(f"{at}.q_down_norm", x_q, epsilon=mixer.norm_epsilon)
        else:
            x_q = x
        kv = writer.linear(at, mixer.kv_down, x, input_bits=FINE_BITS)
        sizes = writer.constant(f"{at}.kv_split", np.array([latent, turned], np.int64))
        low, key = writer.nodes("Split", [kv, sizes], [f"{at}.low", f"{at}.key"], axis=-1)
        low = writer.norm(f"{at}.kv_down_norm", low, epsilon=mixer.norm_epsilon)
        up = writer.checkpoint.matrix(f"{at}.kv_up")
        up = up.reshape(heads, mixer.nope_width + mixer.value_width, latent)
        q = writer.linear(at, mixer.q, x_q, input_bits=FINE_BITS)
        q = self._reshape(q, f"{at}.q_heads", [0, heads, -1])
        sizes = writer.constant(f"{at}.q_split", np.array([mixer.nope_width, turned], np.int64))
        plain, rotary = writer.nodes("Split", [q, sizes], [f"{at}.q_nope", f"{at}.q_turn"], axis=-1)
        plain = self._reshape(plain, f"{at}.q_flat", [0, -1])
        to_keys = up[:, : mixer.nope_width].swapaxes(1, 2)
        absorbed = self._multiply_heads(f"{at}.to_keys", plain, to_keys)
        absorbed = self._reshape(absorbed, f"{at}.q_absorbed", [0, heads, -1])
        whole = writer.node("Concat", [absorbed, rotary], f"{at}.q_whole", axis=-1)
        q = self._reshape(whole, f"{at}.q_latent", [0, -1])
        attended = self._attend(
            index,
            mixer,
            writer.node("Concat", [q, low, key, low], f"{at}.qkv", axis=-1),
            heads=heads,
            norms=["", ""],
            start=latent,
        )
        values = self._multiply_heads(f"{at}.to_values", attended, up[:, mixer.nope_width :])
        return writer.linear(at, mixer.o, values)

    def _multiply_heads(self, name: str, x: str, matrices: Floats) -> str:
        """Multiply each head of x [t, heads * inputs] by its matrix [outputs, inputs]."""
        heads, outputs, inputs = matrices.shape
        data = np.concatenate([pack_floats(each).data for each in matrices])
        return self._writer.node(
            "HeadLinear",
            [x, self._writer.weight(name, data)],
            f"{name}.out",
            domain=DOMAIN,
            heads=heads,
            in_width=inputs,
            out_width=outputs,
        )

    def _reshape(self, x: str, name: str, shape: list[int]) -> str:
        key = "shape." + ".".join(map(str, shape))
        return self._writer.node(
            "Reshape", [x, self._writer.constant(key, np.array(shape, np.int64))], name
        )

    def _attend(
        self,
        index: int,
        mixer: Attention | LatentAttention,
        qkv: str,
        *,
        heads: int,
        norms: list[str],
        start: int,
        window: int | None = None,
        softcap: float | None = None,
    ) -> str:
        kept = find_heads(mixer)
        assert isinstance(kept, Heads)  # noqa: S101 - both kinds of attention keep keys
        rotary = mixer.rotary
        tables = ("", "") if rotary is None else self._table(rotary)
        return self._writer.node(
            "Attention",
            [qkv, "kv_pool", "kv_bits", "pages", "row_of", "position", *tables, *norms],
            f"layers.{index}.attended",
            domain=DOMAIN,
            heads=heads,
            kv_heads=kept.kv_heads,
            key_width=kept.key_width,
            value_width=kept.value_width,
            offset=self._offsets[16][index],
            offset_byte=self._offsets[8][index],
            scale=mixer.scale,
            window=window,
            softcap=softcap,
            rotary_start=start,
            interleaved=int(rotary.interleaved) if rotary else 0,
            epsilon=self._writer.checkpoint.declaration.norm_epsilon,
        )

    def _short_conv(self, index: int, mixer: ShortConv, x: Unread) -> str:
        writer, at = self._writer, f"layers.{index}"
        projected = writer.linear(at, mixer.conv_in, x, input_bits=FINE_BITS)
        mixed = writer.node(
            "ShortConv",
            [projected, self._taps(at, mixer.taps), *_STATE],
            f"{at}.convolved",
            domain=DOMAIN,
            width=mixer.width,
            taps=mixer.taps,
            offset=writer.layout.state_offsets[index],
        )
        return writer.linear(at, mixer.conv_out, mixed)

    def _gated_delta(self, index: int, mixer: GatedDelta, x: Unread) -> str:
        writer, at = self._writer, f"layers.{index}"
        vectors = [writer.vector(f"{at}.{each}") for each in ("decay", "decay_bias", "delta_norm")]
        projected = writer.linear(at, mixer.delta_in, x, input_bits=FINE_BITS)
        mixed = writer.node(
            "GatedDelta",
            [projected, self._taps(at, mixer.taps), *vectors, *_STATE],
            f"{at}.recalled",
            domain=DOMAIN,
            key_heads=mixer.key_heads,
            value_heads=mixer.value_heads,
            key_width=mixer.key_width,
            value_width=mixer.value_width,
            taps=mixer.taps,
            epsilon=writer.checkpoint.declaration.norm_epsilon,
            offset=writer.layout.state_offsets[index],
        )
        return writer.linear(at, mixer.delta_out, mixed)

    def _taps(self, at: str, taps: int) -> str:
        weight = self._writer.checkpoint.weights[f"{at}.conv"].dequantize().reshape(-1, taps)
        return self._writer.weight(f"{at}.conv", weight)

    def _table(self, rotary: Rotary) -> tuple[str, str]:
        if rotary not in self._tables:
            angles = np.outer(np.arange(self._positions), rotary.frequencies)
            number = len(self._tables)
            self._tables[rotary] = (
                self._add_table(f"cosine.{number}", np.cos(angles) * rotary.magnitude),
                self._add_table(f"sine.{number}", np.sin(angles) * rotary.magnitude),
            )
        return self._tables[rotary]

    def _add_table(self, name: str, values: NDArray[np.float64]) -> str:
        return self._writer.weight(name, values.astype(np.float32))
