"""Run the packed graph: tokens in, logits out; keys and values stay in caches bound in place.

Letters: s new tokens, V vocabulary, c capacity. One sequence at a time (part 2 widens b).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fluvial.errors import ContextLengthError, ModelError
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.graph import GRAPH_FILE

Floats = NDArray[np.float32]


@dataclass(eq=False)
class Cache:
    """Keys and values of one sequence. `tokens` are those it holds; capacity is fixed."""

    capacity_tokens: int
    buffers: dict[str, Any]
    tokens: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)


class Decoder:
    """A checkpoint's graph, loaded. Not thread-safe: one thread owns it."""

    def __init__(
        self, checkpoint: Checkpoint, *, graph_folder: Path, context_tokens: int, threads: int
    ) -> None:
        self._checkpoint = checkpoint
        self._declaration = checkpoint.declaration
        self.context_tokens = min(context_tokens, checkpoint.declaration.context_tokens)
        self.vocab_size = checkpoint.declaration.vocab_size
        self._session = _load(graph_folder, threads=threads)
        self._binding = self._session.io_binding()
        self._base = Adapter("base", create_tensors(self._declaration, rank=1, seed=0))
        self._bound_cache: Cache | None = None
        self._bound_adapter: str | None = None
        self._bound_tensors: list[Any] = []

    def new_cache(self, capacity_tokens: int) -> Cache:
        """Make room for a sequence of up to `capacity_tokens`.

        The buffers are not cleared: nothing reads past the tokens a cache holds, and the system
        gives memory only as they are written.
        """
        buffers: dict[str, Any] = {}
        for index, layer in enumerate(self._declaration.layers):
            shape = (1, layer.mixer.kv_heads, capacity_tokens, layer.mixer.head_width)
            for part in ("key", "value"):
                buffers[f"{index}.{part}"] = ort.OrtValue.ortvalue_from_shape_and_type(
                    shape, np.float32
                )
        return Cache(capacity_tokens, buffers)

    def truncate(self, cache: Cache, length: int) -> None:
        """Forget the tokens of `cache` from `length` on."""
        del cache.tokens[length:]

    def forward(
        self, token_ids: Sequence[int], *, cache: Cache, adapter: Adapter | None = None
    ) -> Floats:
        """Append s >= 1 tokens to `cache` and return the logits after the last one, float32 [V]."""
        return self.score(token_ids, rows=[len(token_ids) - 1], cache=cache, adapter=adapter)[0]

    def score(
        self,
        token_ids: Sequence[int],
        *,
        rows: Sequence[int],
        cache: Cache,
        adapter: Adapter | None = None,
    ) -> Floats:
        """Append tokens; return the logits after the positions `rows` of them, float32 [rows, V].

        Raises ContextLengthError when the cache has no room; then nothing was appended.
        """
        total = cache.length + len(token_ids)
        if total > cache.capacity_tokens:
            raise ContextLengthError(
                f"{total} tokens do not fit a cache of {cache.capacity_tokens}"
            )
        ids = np.asarray(token_ids, np.int64)
        self._bind_cache(cache)
        self._bind_adapter(adapter or self._base)
        bind = self._binding.bind_cpu_input
        bind("hidden", self._checkpoint.embed(ids)[None])
        bind("rows", np.asarray(rows, np.int64))
        bind("seqlens_k", np.array([total - 1], np.int32))
        bind("total_sequence_length", np.array(total, np.int32))
        self._binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(self._binding)
        cache.tokens.extend(token_ids)
        return self._binding.get_outputs()[0].numpy()

    def _bind_cache(self, cache: Cache) -> None:
        if cache is self._bound_cache:
            return
        self._binding.clear_binding_outputs()
        self._binding.bind_output("logits", "cpu")
        for name, buffer in cache.buffers.items():
            self._binding.bind_ortvalue_input(f"past.{name}", buffer)
            self._binding.bind_ortvalue_output(f"present.{name}", buffer)
        self._bound_cache = cache

    def _bind_adapter(self, adapter: Adapter) -> None:
        if adapter.key == self._bound_adapter:
            return
        values: list[Any] = []
        for name, tensor in adapter.tensors.items():
            place, array = name, tensor[None]
            if name.endswith(".gain"):
                place, array = name.removesuffix("gain") + "scale", 1 + tensor[None, None]
            value = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array, np.float32))
            self._binding.bind_ortvalue_input(place, value)
            values.append(value)
        self._bound_adapter, self._bound_tensors = adapter.key, values


def _load(folder: Path, *, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return ort.InferenceSession(
            str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises its own exception types, none of them public
        raise ModelError(f"the built graph in {folder} can't be loaded: {error}") from None
