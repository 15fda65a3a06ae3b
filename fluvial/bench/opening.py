"""Open a decoder as a server would: the graph from its cache, room for so many sequences."""

from pathlib import Path

from fluvial.engine.decoder import Decoder
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint

MAX_POSITIONS = 16_384


def open_decoder(
    checkpoint: Checkpoint,
    *,
    graph_dir: Path,
    threads: int,
    context_tokens: int,
    sequences: int = 1,
    profile: Path | None = None,
) -> Decoder:
    """Load the checkpoint's decoder with room for `sequences` of `context_tokens` each.

    All lengths use one built graph. With `profile`, the runtime's profiler writes a file whose name
    begins so, until `stop_profiling`.
    """
    positions = min(checkpoint.declaration.context_tokens, MAX_POSITIONS)
    return Decoder(
        checkpoint,
        graph_folder=ensure_graph(checkpoint, cache_dir=graph_dir, positions=positions),
        context_tokens=context_tokens,
        threads=threads,
        cache_tokens=sequences * (context_tokens + Decoder.page_tokens),
        adapter_slots=max(1, sequences),
        profile=profile,
    )
