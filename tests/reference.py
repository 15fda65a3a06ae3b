"""`transformers` as the reference: its model of one of our checkpoints, with our weights."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from fluvial.model.architecture import find_family
from fluvial.model.architecture.declaration import Attention, Declaration, Rotary
from fluvial.model.architecture.name import Values
from fluvial.model.checkpoint import Checkpoint


def load_reference(checkpoint: Checkpoint) -> PreTrainedModel:
    """Make the `transformers` model of a checkpoint, with the same dequantised weights."""
    declaration = checkpoint.declaration
    model_type = find_family(declaration.family, in_gguf=True).config
    config = AutoConfig.for_model(
        model_type,
        **_describe(declaration),
        **_EXTRAS.get(model_type, _describe_plain)(declaration),
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = dict(
        _translate(name, raw.dequantize(), declaration) for name, raw in checkpoint.weights.items()
    )
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    _fill_buffers(model, declaration)
    return model.eval()


def _describe(declaration: Declaration) -> dict[str, Any]:
    attention = _find_attention(declaration)
    return {
        "vocab_size": declaration.vocab_size,
        "hidden_size": declaration.width,
        "intermediate_size": declaration.layers[0].mlp.width,
        "num_hidden_layers": len(declaration.layers),
        "num_attention_heads": attention.heads,
        "num_key_value_heads": attention.kv_heads,
        "head_dim": attention.head_width,
        "max_position_embeddings": declaration.context_tokens,
        "tie_word_embeddings": declaration.tied_head,
        "attn_implementation": "eager",
    }


def _describe_plain(declaration: Declaration) -> dict[str, Any]:
    return {"rms_norm_eps": declaration.norm_epsilon}


def _describe_gemma3(declaration: Declaration) -> dict[str, Any]:
    mixers = [layer.mixer for layer in declaration.layers]
    return {
        "rms_norm_eps": declaration.norm_epsilon,
        "layer_types": [_name_kind(mixer) for mixer in mixers],
        "sliding_window": next(mixer.window for mixer in mixers if mixer.window),
        "query_pre_attn_scalar": round(mixers[0].scale ** -2),
        "final_logit_softcapping": declaration.logit_softcap,
    }


def _describe_lfm2(declaration: Declaration) -> dict[str, Any]:
    return {
        "norm_eps": declaration.norm_epsilon,
        "layer_types": [_name_kind(layer.mixer) for layer in declaration.layers],
        "block_auto_adjust_ff_dim": False,
    }


_EXTRAS = {"gemma3_text": _describe_gemma3, "lfm2": _describe_lfm2}


def _name_kind(mixer: object) -> str:
    if not isinstance(mixer, Attention):
        return "conv"
    return "sliding_attention" if mixer.window else "full_attention"


def _find_attention(declaration: Declaration) -> Attention:
    mixers = (layer.mixer for layer in declaration.layers)
    return next(mixer for mixer in mixers if isinstance(mixer, Attention))


def _translate(name: str, array: Any, declaration: Declaration) -> tuple[str, torch.Tensor]:
    """Return the name and the value that `transformers` has for our weight."""
    names = find_family(declaration.family, in_gguf=True).config_names
    before, (source, *_) = names.find(name)
    weight = torch.from_numpy(array.copy())
    if isinstance(source, Values):
        return before + source.names[0], weight - 1
    assert isinstance(source, str)
    return before + source, weight[:, None] if name.endswith(".conv") else weight


def _fill_buffers(model: PreTrainedModel, declaration: Declaration) -> None:
    """Fill what is not in the weights; on the meta device it was never computed."""
    rotary = model.model.rotary_emb
    embedding = model.model.embed_tokens
    if hasattr(embedding, "embed_scale"):
        embedding.embed_scale = torch.tensor(declaration.embedding_scale)
    for layer in declaration.layers:
        if not isinstance(layer.mixer, Attention):
            continue
        kind = _name_kind(layer.mixer)
        before = f"{kind}_" if hasattr(rotary, f"{kind}_inv_freq") else ""
        _fill_rotary(rotary, before, layer.mixer.rotary)


def _fill_rotary(module: torch.nn.Module, before: str, rotary: Rotary | None) -> None:
    assert rotary is not None
    for name in ("inv_freq", "original_inv_freq"):
        setattr(module, before + name, torch.tensor(rotary.frequencies, dtype=torch.float32))
    setattr(module, f"{before}attention_scaling", rotary.magnitude)
