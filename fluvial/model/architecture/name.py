"""How GGUF and Hugging Face files name the weights that a Declaration names."""

from fluvial.model.architecture.declaration import Declaration

_GGUF_LAYER = {
    "attention_norm": "attn_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "q.bias": "attn_q.bias",
    "k.bias": "attn_k.bias",
    "v.bias": "attn_v.bias",
    "o": "attn_output.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
}
_CONFIG_LAYER = {
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "q.bias": "self_attn.q_proj.bias",
    "k.bias": "self_attn.k_proj.bias",
    "v.bias": "self_attn.v_proj.bias",
    "o": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
GGUF = {"embedding": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}
CONFIG = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "head": "lm_head.weight",
}


def list_shapes(declaration: Declaration) -> dict[str, tuple[int, ...]]:
    """Name every weight of a model, in our terms, with the shape it must have."""
    width, vocab = declaration.width, declaration.vocab_size
    shapes: dict[str, tuple[int, ...]] = {"embedding": (vocab, width), "norm": (width,)}
    if not declaration.tied_head:
        shapes["head"] = (vocab, width)
    for index, layer in enumerate(declaration.layers):
        shapes[f"layers.{index}.attention_norm"] = shapes[f"layers.{index}.mlp_norm"] = (width,)
        for group in layer.groups:
            for part, outputs in group.parts:
                shapes[f"layers.{index}.{part}"] = (outputs, group.inputs)
                if group.bias:
                    shapes[f"layers.{index}.{part}.bias"] = (outputs,)
    return shapes


def translate(name: str, *, gguf: bool) -> str:
    """Turn our name of a weight into the file's."""
    if not name.startswith("layers."):
        return (GGUF if gguf else CONFIG)[name]
    _, index, part = name.split(".", 2)
    if gguf:
        return f"blk.{index}.{_GGUF_LAYER[part]}"
    return f"model.layers.{index}.{_CONFIG_LAYER[part]}"
