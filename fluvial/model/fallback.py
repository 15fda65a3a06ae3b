"""Run a model that no declaration covers through `transformers`, in float32, with adapters.

The model's own forward pass is left as it is: hooks add a low-rank term to every linear of its
blocks, and a gain to the input of each MLP's last linear where there is exactly one. Nothing from
a hub, no code from the folder, no pickle. Letters: s new tokens, V vocabulary.

Run as a program, it prints the outline of the folder it is given (`outline.py` reads that).
"""

import inspect
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, Cache
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from fluvial.errors import ModelError
from fluvial.model.architecture.declaration import Group
from fluvial.model.fallback_state import State
from fluvial.model.outline import (
    FAMILY_PREFIX,
    Outline,
    OutlinedCheckpoint,
    OutlineLayer,
    check_folder,
    encode_outline,
)

log = logging.getLogger(__name__)

AdapterTensors = Mapping[str, Tensor]
DEFAULT_CONTEXT_TOKENS = 2048
"""For configs that name no longest sequence, as of models without learned positions."""

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_CACHE_NAMES = ("past_key_values", "cache_params")
_DOWN = {"down_proj", "dense_4h_to_h", "fc2", "fc_out", "c_proj", "w2", "output_linear"}
# Routers stay as they are, and so do experts that are called apart.
_UNADAPTED = {"router", "experts", "gate_router"}


class Fallback:
    """A checkpoint in float32, one sequence at a time; stands where `Module` stands."""

    def __init__(self, checkpoint: OutlinedCheckpoint) -> None:
        self.declaration: Outline = checkpoint.declaration
        self._model = _load(checkpoint.path)
        if outline(self._model) != self.declaration:
            raise ModelError("the model's weights don't have the shape that its config.json says")
        self._live: AdapterTensors = {}
        self._weights: dict[str, Tensor] = {}
        for index, (block, layer) in enumerate(
            zip(_find_blocks(self._model), self.declaration.layers, strict=True)
        ):
            self._attach(f"layers.{index}", block, layer)
        accepted = inspect.signature(self._model.forward).parameters
        self._can_skip_logits = "logits_to_keep" in accepted
        self._cache_name = next((name for name in _CACHE_NAMES if name in accepted), "")
        if not self._cache_name:
            raise ModelError("this family keeps no state between tokens, so it can't be run here")

    def use_threads(self, threads: int) -> None:
        """Compute with this many threads from now on."""
        torch.set_num_threads(threads)

    def weight_scale(self, name: str) -> float:
        """Return the Frobenius norm of a linear's base weights, such as `layers.3.mlp.fc1`."""
        return float(self._weights[name].norm())

    def read(
        self,
        token_ids: Tensor,
        *,
        adapter: AdapterTensors | None = None,
        past: State | None = None,
    ) -> tuple[Tensor, State]:
        """Run tokens int64 [s] after `past`; return logits [s, V] and the state after them.

        Logits stand where `Module` returns hidden states: what a family does behind its last
        norm is its own affair. `past` stays what it was.
        """
        return self._run(token_ids, adapter or {}, past, keep=len(token_ids))

    def losses(self, logits_SV: Tensor, targets_S: Tensor) -> Tensor:
        """Return each target's loss in nats, float32 [s]."""
        return nn.functional.cross_entropy(logits_SV, targets_S, reduction="none")

    def logits(self, logits_SV: Tensor) -> Tensor:
        """Return what `read` has returned, which are the logits."""
        return logits_SV

    @torch.no_grad()
    def step(
        self,
        token_ids: Sequence[int],
        *,
        past: State | None,
        adapter: AdapterTensors | None,
        wanted: Sequence[int],
    ) -> tuple[NDArray[np.float32], State]:
        """Append tokens to `past`; return the logits at `wanted`, float32 [wanted, V]."""
        keep = len(token_ids) - wanted[0] if wanted else 1
        logits, state = self._run(torch.tensor(token_ids), adapter or {}, past, keep=keep)
        rows = [index - len(token_ids) for index in wanted]
        return logits[rows].numpy(), state

    def _run(
        self, token_ids: Tensor, adapter: AdapterTensors, past: State | None, *, keep: int
    ) -> tuple[Tensor, State]:
        options: dict[str, Any] = {"logits_to_keep": keep} if self._can_skip_logits else {}
        options[self._cache_name] = None if past is None else past.copy_cache()
        self._live = adapter
        try:
            out = self._model(input_ids=token_ids[None], use_cache=True, **options)
        finally:
            self._live = {}
        length = len(token_ids) + (0 if past is None else past.length)
        return out.logits[0].float(), State(self._get_cache(out), length=length)

    def _get_cache(self, out: Any) -> Cache:
        cache = getattr(out, self._cache_name, None)
        if not isinstance(cache, Cache):
            raise ModelError("this family keeps its state in a form that can't be run here")
        return cache

    def _attach(self, at: str, block: nn.Module, layer: OutlineLayer) -> None:
        gained = _find_down(block) if layer.gain_width else None
        for group in layer.groups:
            linear = block.get_submodule(group.name)
            name = f"{at}.{group.name}"
            self._weights[name] = cast(Tensor, linear.weight)
            if group.name == gained:
                self._attach_gain(linear, f"{at}.gain")
            self._attach_term(linear, name)

    def _attach_gain(self, linear: nn.Module, name: str) -> None:
        def widen(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            gain = self._live.get(name)
            return None if gain is None else (inputs[0] * (1 + gain), *inputs[1:])

        linear.register_forward_pre_hook(widen)

    def _attach_term(self, linear: nn.Module, name: str) -> None:
        def add(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            a, b = self._live.get(f"{name}.a"), self._live.get(f"{name}.b")
            return None if a is None or b is None else output + (inputs[0] @ a) @ b

        linear.register_forward_hook(add)


def to_tensors(arrays: Mapping[str, NDArray[np.float32]]) -> AdapterTensors:
    """Return an adapter's arrays as tensors."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}


def outline(model: nn.Module) -> Outline:
    """Describe what an adapter may change in a model; its weights may be on the meta device."""
    config: Any = cast(Any, model.config).get_text_config()
    head: Any = cast(Any, model).get_output_embeddings()
    if head is None:
        raise ModelError(f"the {config.model_type} model has no output layer")
    contexts = [getattr(config, key, None) for key in _CONTEXT_KEYS]
    return Outline(
        family=f"{FAMILY_PREFIX}{cast(Any, model.config).model_type}",
        vocab_size=int(head.weight.shape[0]),
        width=int(config.hidden_size),
        context_tokens=next((n for n in contexts if n), DEFAULT_CONTEXT_TOKENS),
        layers=tuple(_outline_block(block) for block in _find_blocks(model)),
    )


def create_empty(path: Path) -> nn.Module:
    """Make the model of a folder's config.json without memory for its weights."""
    config = _read_config(path)
    try:
        with torch.device("meta"):
            return cast(Any, AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    except Exception as error:  # no list of what transformers may raise would be complete
        raise ModelError(f"transformers can't build this model: {str(error)[:300]}") from None


def _outline_block(block: nn.Module) -> OutlineLayer:
    linears = _list_linears(block)
    down = _find_down(block)
    return OutlineLayer(
        groups=tuple(
            Group(name=name, inputs=inputs, parts=((name, outputs),))
            for name, (inputs, outputs) in linears.items()
        ),
        gain_width=linears[down][0] if down is not None else 0,
    )


def _find_blocks(model: nn.Module) -> list[nn.Module]:
    count = cast(Any, model.config).get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ModelError("the model's layers can't be found, so it can't adapt and is not run")


def _list_linears(block: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear of a block by its path."""
    found: dict[str, tuple[int, int]] = {}
    for name, module in block.named_modules():
        if _UNADAPTED & set(name.split(".")):
            continue
        if isinstance(module, Conv1D):
            found[name] = (int(module.weight.shape[0]), int(module.weight.shape[1]))
        elif isinstance(module, nn.Linear):
            found[name] = (module.in_features, module.out_features)
    return found


def _find_down(block: nn.Module) -> str | None:
    """Return the path of the MLP's last linear, where exactly one looks like it."""
    names = [
        name
        for name in _list_linears(block)
        if name.rpartition(".")[2] in _DOWN and "att" not in name.lower()
    ]
    return names[0] if len(names) == 1 else None


def _read_config(path: Path) -> Any:
    model_type = check_folder(path)
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"model family {model_type!r} is neither built into Fluvial nor known to transformers "
            f"{transformers.__version__}; code that a model folder brings along is never run"
        )
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(f"config.json does not fit {model_type}: {str(error)[:300]}") from None
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"a {model_type} model does not write text from left to right")
    return config


def _load(path: Path) -> nn.Module:
    transformers.logging.disable_progress_bar()
    config = _read_config(path)
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    try:
        model, report = cast(Any, AutoModelForCausalLM).from_pretrained(
            path,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation="sdpa" if getattr(kind, "_supports_sdpa", False) else "eager",
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"transformers can't load this folder: {str(error)[:300]}") from None
    missing = sorted(report["missing_keys"]) or sorted(str(n) for n in report["mismatched_keys"])
    if missing:
        raise ModelError(f"the folder is incomplete: {missing[0]} is missing or misshapen")
    model.requires_grad_(False)
    return model.eval()


def main() -> None:
    """Print the outline of the folder that is named on the command line, or an error, as JSON."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a library that prints must not break the answer
    try:
        reply = {"outline": encode_outline(outline(create_empty(Path(sys.argv[1]))))}
    except ModelError as error:
        reply = {"error": error.message}
    print(json.dumps(reply), file=replies)
    replies.close()


if __name__ == "__main__":
    main()
