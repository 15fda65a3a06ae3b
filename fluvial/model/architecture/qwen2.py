"""The qwen2 family (Qwen2, Qwen2.5, Qwen2.5-Coder): llama's block, biases on query, key, value."""

from fluvial.model.architecture.llama import declare_from_config, declare_from_gguf

__all__ = [
    "CONFIG_NAME",
    "GGUF_NAME",
    "INTERLEAVED_IN_GGUF",
    "QKV_BIAS",
    "declare_from_config",
    "declare_from_gguf",
]

GGUF_NAME = "qwen2"
CONFIG_NAME = "qwen2"
QKV_BIAS = True
INTERLEAVED_IN_GGUF = False
