"""The qwen2 family (Qwen2, Qwen2.5, Qwen2.5-Coder): llama's block, biases on query, key, value."""

from functools import partial

from fluvial.model.architecture import llama
from fluvial.model.architecture.family import Family

FAMILY = Family(gguf="qwen2", config="qwen2", declare=partial(llama.declare, qkv_bias=True))
