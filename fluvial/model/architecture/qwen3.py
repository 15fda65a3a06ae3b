"""The qwen3 family: llama's block with a norm on each head of query and key."""

from functools import partial

from fluvial.model.architecture import llama
from fluvial.model.architecture.family import Family

FAMILY = Family(gguf="qwen3", config="qwen3", declare=partial(llama.declare, head_norm=True))
