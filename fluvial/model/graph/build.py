"""Write a whole model: embeddings in, layers, logits out."""

from pathlib import Path

import numpy as np
from onnx import TensorProto

from fluvial.model.architecture.declaration import Declaration, Layer
from fluvial.model.checkpoint import Checkpoint
from fluvial.model.graph.mixer import MixerWriter
from fluvial.model.graph.mlp import write_mlp
from fluvial.model.graph.writer import (
    DOMAIN,
    FINE_BITS,
    WEIGHTS_FILE,
    GraphWriter,
    Progress,
    Unread,
    describe,
)
from fluvial.model.loss import TypeLoss

GRAPH_VERSION = 9


def build(
    checkpoint: Checkpoint,
    *,
    folder: Path,
    positions: int,
    whole: bool = False,
    progress: Progress | None = None,
) -> tuple[TypeLoss, ...]:
    """Write `graph.onnx` and `weights.bin` to `folder`, for sequences up to `positions` tokens.

    `whole` keeps weights in float32, four to eight times as large. Returns what packing cost.
    """
    declaration = checkpoint.declaration
    told = progress or _ignore
    with (folder / WEIGHTS_FILE).open("wb") as weights:
        writer = GraphWriter(checkpoint, weights=weights, whole=whole)
        _declare_inputs(writer)
        mixers = MixerWriter(writer, positions=positions)
        residual, branch = _write_embedding(writer, declaration), None
        for index, layer in enumerate(declaration.layers):
            residual, branch = _write_layer(writer, mixers, index, layer, residual, branch)
            told((index + 1) / (len(declaration.layers) + 1))
        _write_head(writer, declaration, residual, branch)
        told(1.0)
    writer.finish(folder)
    return writer.losses.report()


def _ignore(_: float) -> None:
    pass


def _declare_inputs(writer: GraphWriter) -> None:
    layout = writer.layout
    writer.input("tokens", ["t"], TensorProto.INT64)
    writer.input("rows", ["k"], TensorProto.INT64)
    writer.input("row_of", ["t"], TensorProto.INT32)
    writer.input("position", ["t"], TensorProto.INT32)
    if layout.page_bytes:
        writer.input("pages", ["b", "places"], TensorProto.INT32)
        writer.input("kv_pool", ["slabs", "slab_bytes"], TensorProto.UINT8)
        writer.input("kv_bits", [1], TensorProto.INT32)
    if layout.state_floats:
        writer.input("state_slot", ["b"], TensorProto.INT32)
        writer.input("state_pool", ["states", layout.state_floats])
    writer.input("adapter_slot", ["b"], TensorProto.INT32)
    writer.input("adapter_pool", ["adapters", "floats"])


def _write_embedding(writer: GraphWriter, declaration: Declaration) -> str:
    name = "head" if declaration.tied_head else "embedding"
    packed = writer.pack(name)
    return writer.node(
        "Embed",
        ["tokens", writer.weight(f"{name}.data", packed.data)],
        "embedded",
        domain=DOMAIN,
        scale=declaration.embedding_scale,
        **describe(packed),
    )


def _write_layer(
    writer: GraphWriter,
    mixers: MixerWriter,
    index: int,
    layer: Layer,
    residual: str,
    branch: str | None,
) -> tuple[str, str]:
    at = f"layers.{index}"
    unread = Unread(residual=residual, branch=branch, norm=f"{at}.attention_norm")
    mixed = mixers.write(index, layer.mixer, unread)
    if layer.post_norms:
        mixed = writer.norm(f"{at}.attention_post_norm", mixed)
    unread = Unread(residual=unread.total, branch=mixed, norm=f"{at}.mlp_norm")
    thought = write_mlp(writer, index, layer.mlp, unread)
    if layer.post_norms:
        thought = writer.norm(f"{at}.mlp_post_norm", thought)
    return unread.total, thought


def _write_head(
    writer: GraphWriter, declaration: Declaration, residual: str, branch: str | None
) -> None:
    """Only the rows whose logits are wanted go through the last norm and the output layer."""
    chosen = [
        writer.node("Gather", [each, "rows"], f"chosen.{place}", axis=0)
        for place, each in enumerate(filter(None, (residual, branch)))
    ]
    last = Unread(residual=chosen[0], branch=chosen[1] if branch else None, norm="norm")
    logits = writer.product("head", writer.pack("head"), last, input_bits=FINE_BITS)
    cap = declaration.logit_softcap
    if cap is not None:
        limit = writer.constant("logit_softcap", np.array(cap, np.float32))
        inner = writer.node("Tanh", [writer.node("Div", [logits, limit], "capped")], "bent")
        logits = writer.node("Mul", [inner, limit], "softened")
    writer.node("Identity", [logits], "logits")
    writer.output("logits", ["k", declaration.vocab_size])
