"""Open a decoder as a server would: the graph from its cache, room for so many sequences."""

from pathlib import Path

from fluvial.engine.decoder import Decoder
from fluvial.model.checkpoint import Checkpoint


def open_decoder(
    checkpoint: Checkpoint,
    *,
    graph_dir: Path,
    threads: int,
    context_tokens: int,
    sequences: int = 1,
) -> Decoder:
    """Load the checkpoint's decoder with room for `sequences` of `context_tokens` each."""
    raise NotImplementedError
