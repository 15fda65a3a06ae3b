"""Run the packed graph: tokens of many sequences in, logits out.

Letters: t new tokens of all sequences in a step, V vocabulary. A row's result does not depend on
what else is in the step, nor on how its tokens were cut into steps: the operators see to that
(native/source/linear.h, attention.h).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from fluvial.engine.pool import AdapterPool, PagePool, StatePool, count_pages
from fluvial.engine.protocol import Part
from fluvial.engine.weight import Weights
from fluvial.errors import ContextLengthError, EngineError, ModelError
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.graph import GRAPH_FILE
from fluvial.model.layout import PAGE_TOKENS, CacheBits, lay_out
from fluvial.native.library import ensure_library, use_threads

Floats = NDArray[np.float32]

FOLDER_ENTRY = "session.model_external_initializers_file_folder_path"
MAX_SNAPSHOTS = 4
"""Recurrent states kept for one sequence, the oldest going first."""


@dataclass(eq=False)
class Cache:
    """What the decoder holds of one sequence; `tokens` are those it has read."""

    tokens: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    state: int | None = None
    snapshots: dict[int, Floats] = field(default_factory=dict)

    @property
    def length(self) -> int:
        return len(self.tokens)


class Decoder:
    """A checkpoint's graph, loaded, with the memory of its sequences.

    Not thread-safe: one thread owns it.
    """

    page_tokens = PAGE_TOKENS

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        graph_folder: Path,
        context_tokens: int,
        threads: int,
        cache_tokens: int | None = None,
        cache_bits: CacheBits | None = None,
        adapter_slots: int = 8,
        profile: Path | None = None,
    ) -> None:
        """Load the graph.

        `cache_tokens`: tokens that all caches together may hold (default: two full contexts);
        `cache_bits`: how keys and values are kept (default: what suits the model);
        `adapter_slots`: adapters kept ready; `profile`: how the name of a trace of the graph's
        operators begins, which is written until `stop_profiling`.
        """
        declaration = checkpoint.declaration
        self.context_tokens = min(context_tokens, declaration.context_tokens)
        self.vocab_size = declaration.vocab_size
        self._layout = lay_out(declaration, cache_bits=cache_bits)
        self._cache_bits = np.array([self._layout.cache_bits], np.int32)
        room = 2 * self.context_tokens if cache_tokens is None else cache_tokens
        self._pages = PagePool(self._layout, pages=count_pages(max(room, PAGE_TOKENS)))
        self._states = StatePool(self._layout)
        self._adapters = AdapterPool(self._layout, slots=adapter_slots)
        self._weights = Weights(graph_folder)
        self._session = self._load(graph_folder, profile=profile)
        self.use_threads(threads)
        self._binding = self._session.io_binding()
        self._names = {each.name for each in self._session.get_inputs()}
        self._bound: dict[str, Any] = {}

    def use_threads(self, threads: int) -> None:
        """Compute on so many threads from now on; the setting is one for the whole process."""
        use_threads(threads)

    @property
    def total_pages(self) -> int:
        return self._pages.total

    @property
    def free_pages(self) -> int:
        return self._pages.free

    @property
    def recurrent(self) -> bool:
        """Whether some layer keeps a state that can't be trimmed."""
        return self._layout.state_floats > 0

    def new_cache(self) -> Cache:
        """Begin a sequence; it holds no pages yet."""
        return Cache(state=self._states.take() if self.recurrent else None)

    def reserve(self, cache: Cache, tokens: int) -> bool:
        """Make room for `tokens` in all; False, with nothing changed, when too few pages are free.

        Afterwards, no other cache holds a page that this one will write.
        """
        missing = max(0, count_pages(tokens) - len(cache.pages))
        edge = cache.length // PAGE_TOKENS
        shared = [
            place
            for place in range(edge, len(cache.pages))
            if self._pages.is_shared(cache.pages[place])
        ]
        fresh = self._pages.take(missing + len(shared))
        if fresh is None:
            return False
        for place in shared:
            old, cache.pages[place] = cache.pages[place], fresh.pop()
            self._pages.copy(old, cache.pages[place])
            self._pages.drop([old])
        cache.pages += fresh
        return True

    def step(self, parts: Sequence[Part]) -> list[Floats]:
        """Append each part's tokens; return the logits it wanted, float32 [wanted, V] for each.

        Raises ContextLengthError when a cache has no room for its tokens (see `reserve`) and
        EngineError when the graph fails; in both cases no cache has more tokens than before.
        """
        for part in parts:
            self._check_room(part)
        counts = [len(part.tokens) for part in parts]
        starts = list(itertools.accumulate(counts, initial=0))
        rows = [
            start + at for start, part in zip(starts, parts, strict=False) for at in part.wanted
        ]
        self._bind_inputs(parts, counts)
        self._bind("rows", np.array(rows, np.int64))
        self._bind_outputs(tokens=sum(counts), rows=len(rows))
        try:
            self._session.run_with_iobinding(self._binding)
        except (
            Exception
        ) as error:  # onnxruntime raises its own exception types, none of them public
            raise EngineError(f"the model's graph failed: {error}") from None
        logits = self._binding.get_outputs()[0].numpy()
        for part in parts:
            part.cache.tokens.extend(part.tokens)
        ends = list(itertools.accumulate(len(part.wanted) for part in parts))
        return np.split(logits, ends[:-1])

    def snapshot(self, cache: Cache) -> None:
        """Keep the states at this length, so that `fork` and `truncate` can go back to it."""
        if cache.state is None or cache.length == 0:
            return
        cache.snapshots[cache.length] = self._states.data[cache.state].copy()
        while len(cache.snapshots) > MAX_SNAPSHOTS:
            del cache.snapshots[min(cache.snapshots)]

    def restorable(self, cache: Cache, length: int) -> int:
        """Return the greatest length up to `length` that the cache can go back to."""
        length = min(length, cache.length)
        if cache.state is None or length == cache.length:
            return length
        return max((at for at in cache.snapshots if at <= length), default=0)

    def fork(self, cache: Cache, length: int) -> Cache:
        """Return a new cache that holds the first `length` tokens, sharing the pages of them.

        Raises ValueError when a recurrent model has no snapshot there (see `restorable`).
        """
        kept = cache.pages[: count_pages(length)]
        states = self._find_states(cache, length)
        new = self.new_cache()
        new.tokens, new.pages = cache.tokens[:length], list(kept)
        self._pages.hold(kept)
        if new.state is not None and states is not None:
            self._states.data[new.state] = states
            new.snapshots = {at: kept for at, kept in cache.snapshots.items() if at <= length}
            new.snapshots[length] = states
        return new

    def truncate(self, cache: Cache, length: int) -> None:
        """Forget the tokens from `length` on, and give back the pages that held only them.

        Raises ValueError as `fork` does.
        """
        if length >= cache.length:
            return
        states = self._find_states(cache, length)
        keep = count_pages(length)
        self._pages.drop(cache.pages[keep:])
        del cache.pages[keep:], cache.tokens[length:]
        if cache.state is not None:
            self._states.data[cache.state] = 0 if states is None else states
            cache.snapshots = {at: kept for at, kept in cache.snapshots.items() if at <= length}

    def release(self, cache: Cache) -> None:
        """Give everything back; the cache must not be used again."""
        self._pages.drop(cache.pages)
        if cache.state is not None:
            self._states.drop(cache.state)
        cache.pages, cache.tokens, cache.state, cache.snapshots = [], [], None, {}

    def forget_adapter(self, key: str) -> None:
        """Overwrite the tensors of the adapter with this key, where they lie ready."""
        self._adapters.forget(key)

    def export(self, cache: Cache) -> dict[str, NDArray[Any]]:
        """Return copies of what the cache holds, to be kept in a file."""
        kept: dict[str, NDArray[Any]] = {
            "pages": self._pages.read(cache.pages[: count_pages(cache.length)])
        }
        if cache.state is not None:
            kept["state"] = self._states.data[cache.state].copy()
            for length, states in cache.snapshots.items():
                kept[f"snapshot.{length}"] = states.copy()
        return kept

    def restore(self, tokens: Sequence[int], tensors: Mapping[str, NDArray[Any]]) -> Cache | None:
        """Make a cache of what `export` returned; None when too few pages are free.

        Raises ModelError when the tensors do not fit this model and these tokens.
        """
        pages = tensors.get("pages")
        shape = (count_pages(len(tokens)), self._layout.page_bytes)
        if pages is None or pages.shape != shape or pages.dtype != np.uint8:
            raise ModelError(f"a saved cache must hold pages of shape {shape} in uint8")
        states = {name: each for name, each in tensors.items() if name != "pages"}
        for name, each in states.items():
            if each.shape != (self._layout.state_floats,) or each.dtype != np.float32:
                raise ModelError(f"a saved cache holds {name!r} in a shape that does not fit")
        if self.recurrent and "state" not in states:
            raise ModelError("a saved cache of this model must hold its state")
        taken = self._pages.take(len(pages))
        if taken is None:
            return None
        cache = self.new_cache()
        cache.tokens, cache.pages = list(tokens), taken
        self._pages.write(taken, pages)
        if cache.state is not None:
            self._states.data[cache.state] = states.pop("state")
            cache.snapshots = {
                int(name.removeprefix("snapshot.")): np.array(each, np.float32)
                for name, each in states.items()
            }
        return cache

    def stop_profiling(self) -> Path:
        """End the trace that `profile` began; return its file."""
        return Path(self._session.end_profiling())

    def _find_states(self, cache: Cache, length: int) -> Floats | None:
        if cache.state is None or length == 0:
            return None
        if length == cache.length:
            return self._states.data[cache.state].copy()
        if length not in cache.snapshots:
            raise ValueError(f"no snapshot at {length} tokens; see restorable")
        return cache.snapshots[length]

    def _check_room(self, part: Part) -> None:
        cache, total = part.cache, part.cache.length + len(part.tokens)
        if total > self.context_tokens:
            raise ContextLengthError(f"{total} tokens do not fit {self.context_tokens}")
        edge = cache.length // PAGE_TOKENS
        shared = any(self._pages.is_shared(page) for page in cache.pages[edge:])
        if not part.tokens or shared or count_pages(total) > len(cache.pages):
            raise ContextLengthError(
                f"no room is reserved for {total} tokens ({len(part.tokens)} of them new)"
            )

    def _load(self, folder: Path, *, profile: Path | None) -> ort.InferenceSession:
        return open_graph(
            (folder / GRAPH_FILE).read_bytes(), folder, weights=self._weights, profile=profile
        )

    def _bind_outputs(self, *, tokens: int, rows: int) -> None:
        """Say where outputs go, before a step of so many tokens and wanted rows."""
        del tokens, rows
        self._binding.bind_output("logits", "cpu")

    def _bind_inputs(self, parts: Sequence[Part], counts: list[int]) -> None:
        ids = np.fromiter(itertools.chain(*(part.tokens for part in parts)), np.int64)
        self._bind("tokens", ids)
        row_of = np.repeat(np.arange(len(parts), dtype=np.int32), counts)
        self._bind("row_of", row_of)
        starts = [range(part.cache.length, part.cache.length + len(part.tokens)) for part in parts]
        self._bind("position", np.fromiter(itertools.chain(*starts), np.int32))
        if self._layout.page_bytes:
            self._bind("kv_bits", self._cache_bits)
            self._bind("pages", _tabulate([part.cache.pages for part in parts]))
            self._bind_pool("kv_pool", self._pages.data)
        if self.recurrent:
            self._bind("state_slot", np.array([part.cache.state for part in parts], np.int32))
            self._bind_pool("state_pool", self._states.data)
        slots = self._adapters.place([part.adapter for part in parts])
        self._bind("adapter_slot", np.array(slots, np.int32))
        self._bind_pool("adapter_pool", self._adapters.data)

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        if name in self._names:
            self._binding.bind_cpu_input(name, array)

    def _bind_pool(self, name: str, array: NDArray[Any]) -> None:
        """Bind memory in place, which operators write to; again only when it has moved."""
        if self._bound.get(name) is not array:
            self._binding.bind_input(
                name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
            )
            self._bound[name] = array


def _tabulate(pages: list[list[int]]) -> NDArray[np.int32]:
    table = np.full((len(pages), max(map(len, pages))), -1, np.int32)
    for row, held in zip(table, pages, strict=True):
        row[: len(held)] = held
    return table


def open_graph(
    graph: bytes, folder: Path, *, weights: Weights, profile: Path | None = None
) -> ort.InferenceSession:
    """Open a graph that was built in `folder`, with its weights. Raises ModelError."""
    options = ort.SessionOptions()
    # The hot operators have threads of their own (native/source/pool.h); the rest is small.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    options.register_custom_ops_library(str(ensure_library()))
    options.add_session_config_entry(FOLDER_ENTRY, str(folder))
    weights.give_to(options)
    try:
        return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own exception types, none of them public
        raise ModelError(f"the built graph in {folder} can't be loaded: {error}") from None
