"""GGUF LoRA files, as llama.cpp writes and loads them.

Each linear has `NAME.weight.lora_a` [r, i] and `NAME.weight.lora_b` [o, r] under the names and in
the row order of the model's own GGUF file; the scale is adapter.lora.alpha over the rank (1 if
alpha is 0).

Source: https://github.com/ggml-org/llama.cpp, convert_lora_to_gguf.py and src/llama-adapter.cpp.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

from fluvial.errors import ModelError, UnsupportedError
from fluvial.model import gguf
from fluvial.model.adapter import Tensors
from fluvial.model.architecture.declaration import Declaration, LatentAttention
from fluvial.model.exchange.file import bound_bytes, check_absent, check_incoming, write_whole
from fluvial.model.exchange.gain import Fold, Outgoing, prepare
from fluvial.model.exchange.linear import list_linears
from fluvial.model.exchange.pair import find_pairs, read_pair
from fluvial.model.exchange.term import MAX_ALPHA, Imported, check_limit, fuse, split
from fluvial.model.merge import Loss

A, B = ".weight.lora_a", ".weight.lora_b"
_KNOWN = {"adapter.type", "adapter.lora.alpha", "adapter.lora.task_name"}


def export_gguf(
    tensors: Tensors, *, declaration: Declaration, path: Path, fold: Fold | None = None
) -> Loss:
    """Write an adapter as a GGUF LoRA of the model's family; return what was lost.

    Values are written in float32 with a scale of 1, so the LoRA is exactly the adapter, unless
    there are gains: those are only exported with `fold`, at a loss. Raises UnsupportedError for
    gains without `fold` and for terms that llama.cpp would not apply, and otherwise as
    `export_peft` does.
    """
    check_absent(path)
    outgoing = prepare(tensors, declaration=declaration, fold=fold)
    _refuse_ignored(outgoing, declaration)
    write_whole(path, lambda partial: _write(partial, outgoing, declaration))
    return outgoing.loss


def import_gguf(path: Path, *, declaration: Declaration, rank_limit: int) -> Imported:
    """Make an adapter of a GGUF LoRA; exact unless a group's rank is over `rank_limit`.

    Raises UnsupportedError for a file that is no plain LoRA, TooLargeError over the size that the
    model allows, ModelError for one that is damaged or belongs to another model.
    """
    check_limit(rank_limit)
    linears = list_linears(declaration, in_gguf=True)
    check_incoming(path, limit_bytes=bound_bytes(linears))
    file = gguf.read(path)
    alpha = _check_metadata(file.metadata, declaration)
    named = {each.name: each for each in linears}
    pairs = {
        linear.name: read_pair(linear, a, b, scale=alpha / len(a.blocks) if alpha else 1.0)
        for linear, a, b in find_pairs(file.tensors, linears=named, ends=(A, B))
    }
    return fuse(pairs, linears=linears, declaration=declaration, rank_limit=rank_limit)


def _refuse_ignored(outgoing: Outgoing, declaration: Declaration) -> None:
    """Raise UnsupportedError for terms on linears that llama.cpp computes without their LoRA.

    Source: its src/models/deepseek2.cpp, which multiplies all of latent attention but the output by
    the base weights alone; tried on tiny models.
    """
    for index, layer in enumerate(declaration.layers):
        if not isinstance(layer.mixer, LatentAttention):
            continue
        for group in layer.mixer.groups[:-1]:
            if outgoing.terms[f"layers.{index}.{group.name}"].b.any():
                raise UnsupportedError(
                    f"llama.cpp would leave out what the adapter changes at layers.{index}."
                    f"{group.name}: it applies no LoRA to the inputs of latent attention"
                )


def _write(path: Path, outgoing: Outgoing, declaration: Declaration) -> None:
    writer = GGUFWriter(str(path), declaration.family)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(outgoing.rank))
    for linear, pair in split(outgoing.terms, list_linears(declaration, in_gguf=True)):
        # Alpha is one for the whole file: a term of another rank makes up for it in B.
        scale = np.float32(pair.rank / outgoing.rank)
        writer.add_tensor(linear.name + A, pair.a_RI)
        writer.add_tensor(linear.name + B, pair.b_OR if scale == 1 else pair.b_OR * scale)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _check_metadata(metadata: Mapping[str, object], declaration: Declaration) -> float:
    """Return alpha; raises unless the file says that it is a plain LoRA for this family."""
    for key, wanted in (("general.type", "adapter"), ("adapter.type", "lora")):
        if metadata.get(key) != wanted:
            raise UnsupportedError(
                f"{key} is {metadata.get(key)!r:.80}; a GGUF LoRA says {wanted!r}", param=key
            )
    family = metadata.get("general.architecture")
    if family != declaration.family:
        raise ModelError(
            f"the adapter is for models of the {family!r:.80} family, this one is "
            f"{declaration.family!r}"
        )
    for key in metadata:
        if key.startswith("adapter.") and key not in _KNOWN:
            raise UnsupportedError(f"the adapter asks for {key[:80]!r}, which is not supported")
    alpha = metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(alpha, float) or not math.isfinite(alpha) or abs(alpha) > MAX_ALPHA:
        raise ModelError(f"adapter.lora.alpha is {alpha!r:.80}; it must be a float up to 1e6")
    return alpha
