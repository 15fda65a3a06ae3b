"""`transformers` as the reference: its own tiny seeded models, and its models with our weights."""

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from fluvial.model.architecture import find_family
from fluvial.model.checkpoint import Checkpoint

_CLASSES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def create_reference(family: str, *, tied: bool = False, seed: int = 0) -> PreTrainedModel:
    """Make a tiny random `transformers` model whose activations are not small."""
    config_class, model_class = _CLASSES[family]
    torch.manual_seed(seed)
    config = config_class(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
    )
    return model_class(config).eval()


def load_reference(checkpoint: Checkpoint) -> PreTrainedModel:
    """Make the `transformers` model of a checkpoint, with the same dequantised weights."""
    declaration = checkpoint.declaration
    attention = declaration.layers[0].mixer
    config_class, model_class = _CLASSES[declaration.family]
    config = config_class(
        vocab_size=declaration.vocab_size,
        hidden_size=declaration.width,
        intermediate_size=declaration.layers[0].mlp.width,
        num_hidden_layers=len(declaration.layers),
        num_attention_heads=attention.heads,
        num_key_value_heads=attention.kv_heads,
        rms_norm_eps=declaration.norm_epsilon,
        max_position_embeddings=declaration.context_tokens,
        tie_word_embeddings=declaration.tied_head,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": attention.rotary.frequencies[1] ** (-attention.head_width / 2),
        },
    )
    with torch.device("meta"):
        model = model_class(config)
    weights = {
        _translate(name, declaration.family): torch.from_numpy(raw.dequantize().copy())
        for name, raw in checkpoint.weights.items()
    }
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    # The rotary table is not in the weights; on the meta device it was never filled.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def _translate(name: str, family: str) -> str:
    before, sources = find_family(family, in_gguf=True).config_names.find(name)
    assert isinstance(sources[0], str)
    return before + sources[0]
