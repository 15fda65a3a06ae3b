"""PEFT folders: adapter_config.json and adapter_model.safetensors, written and read.

Source: https://github.com/huggingface/peft, docs/source/developer_guides/checkpoint.md.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors.numpy

from fluvial.errors import ModelError, UnsupportedError
from fluvial.model import safetensor
from fluvial.model.adapter import Tensors
from fluvial.model.architecture.declaration import Declaration, Experts
from fluvial.model.exchange.file import (
    HEADER_BYTES,
    bound_bytes,
    check_absent,
    check_incoming,
    write_whole,
)
from fluvial.model.exchange.gain import Fold, prepare
from fluvial.model.exchange.linear import Linear, list_linears
from fluvial.model.exchange.pair import find_pairs, read_pair
from fluvial.model.exchange.peft_config import CONFIG_FILE, read_config
from fluvial.model.exchange.term import Array, Imported, Pair, check_limit, fuse, split
from fluvial.model.merge import Loss

WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
BEFORE = "base_model.model."
EXPERT_ENDS = (".gate_proj", ".up_proj", ".down_proj")
A, B = ".lora_A.weight", ".lora_B.weight"


def export_peft(
    tensors: Tensors,
    *,
    declaration: Declaration,
    base_name: str,
    folder: Path,
    fold: Fold | None = None,
) -> Loss:
    """Write an adapter as a PEFT LoRA of the model that `base_name` names; return what was lost.

    Values are written in float32 with a scale of 1, so the LoRA is exactly the adapter, unless
    there are gains: those are only exported with `fold`, at a loss. Makes `folder` if there is
    none. Raises UnsupportedError for gains without `fold` and for a mixture whose MLPs PEFT can't
    name, ModelError when the tensors do not fit the model, ConflictError when the files exist,
    StorageError when the disk refuses.
    """
    linears = list_linears(declaration, in_gguf=False)
    _refuse_names_of_experts(linears, declaration)
    check_absent(folder / CONFIG_FILE, folder / WEIGHTS_FILE)
    outgoing = prepare(tensors, declaration=declaration, fold=fold)
    pairs = list(split(outgoing.terms, linears))
    arrays: dict[str, Array] = {}
    for linear, pair in pairs:
        arrays[BEFORE + linear.name + A], arrays[BEFORE + linear.name + B] = pair.a_RI, pair.b_OR
    data = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    config = {
        **_describe(outgoing.rank, pairs),
        "base_model_name_or_path": base_name,
        "target_modules": _name_targets(linears, declaration),
    }
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_whole(folder / WEIGHTS_FILE, lambda path: path.write_bytes(data))
    write_whole(folder / CONFIG_FILE, lambda path: path.write_text(text, encoding="utf-8"))
    return outgoing.loss


def import_peft(folder: Path, *, declaration: Declaration, rank_limit: int) -> Imported:
    """Make an adapter of a PEFT LoRA, whose two files stand in `folder`.

    Exact unless a group's rank is over `rank_limit` (see `fuse`); the LoRA's name of its base is
    not looked at, its shapes are. Raises UnsupportedError for what plain LoRA has not and for
    pickles, TooLargeError over the size that the model allows, ModelError for files that are
    damaged or belong to another model, each naming what is wrong.
    """
    check_limit(rank_limit)
    config = read_config(folder / CONFIG_FILE)
    linears = list_linears(declaration, in_gguf=False)
    tensors = _open_weights(folder, limit_bytes=bound_bytes(linears))
    found = find_pairs(tensors, linears={BEFORE + each.name: each for each in linears}, ends=(A, B))
    pairs: dict[str, Pair] = {}
    for linear, a, b in found:
        rank = config.find_rank(linear.name)
        if len(a.blocks) != rank:
            raise ModelError(
                f"{a.name!r} has rank {len(a.blocks)}, {CONFIG_FILE} says {rank} of it"
            )
        pairs[linear.name] = read_pair(linear, a, b, scale=config.find_scale(linear.name))
    return fuse(pairs, linears=linears, declaration=declaration, rank_limit=rank_limit)


def _open_weights(folder: Path, *, limit_bytes: int) -> Mapping[str, safetensor.RawTensor]:
    path = folder / WEIGHTS_FILE
    if not path.exists() and (folder / PICKLE_FILE).exists():
        path = folder / PICKLE_FILE
    check_incoming(path, limit_bytes=limit_bytes)
    others = sorted(file.name for file in folder.glob("*.safetensors") if file.name != path.name)
    if others:
        raise UnsupportedError(
            f"the folder holds {others[0]!r:.100} beside {path.name}; leave only the adapter there"
        )
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
    if header_bytes > HEADER_BYTES:
        raise ModelError(
            f"{path.name} is damaged: its header claims {header_bytes:,} bytes, "
            f"at most {HEADER_BYTES:,} are right"
        )
    return safetensor.read(folder)


def _refuse_names_of_experts(linears: Iterable[Linear], declaration: Declaration) -> None:
    """Raise UnsupportedError for models in which PEFT would put MLP terms on routed experts.

    Since `transformers` 5 stacks experts, PEFT takes these names in a mixture to mean them, even
    under the path of a plain or a shared MLP (its utils/transformers_weight_conversion.py).
    """
    if _has_experts(declaration) and any(each.name.endswith(EXPERT_ENDS) for each in linears):
        raise UnsupportedError(
            "PEFT can't tell this model's plain or shared MLPs from its routed experts: it would "
            "load the adapter wrongly; export it as GGUF"
        )


def _has_experts(declaration: Declaration) -> bool:
    return any(isinstance(layer.mlp, Experts) for layer in declaration.layers)


def _describe(rank: int, pairs: Iterable[tuple[Linear, Pair]]) -> dict[str, object]:
    """Return the config of plain LoRA whose scale is 1 everywhere."""
    ranks = {linear.name: pair.rank for linear, pair in pairs if pair.rank != rank}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": ranks,
        "alpha_pattern": ranks,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
    }


def _name_targets(linears: Iterable[Linear], declaration: Declaration) -> list[str]:
    """Return the ends of names that say which modules are meant, and no others of the model."""
    # Experts have linears of the same names as the plain and the shared MLP.
    names = {each.name.split(".layers.", 1)[-1].split(".", 1)[-1] for each in linears}
    return sorted(
        names if _has_experts(declaration) else {name.rsplit(".", 1)[-1] for name in names}
    )
