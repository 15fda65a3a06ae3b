"""llama.cpp as an oracle: what it makes of a tiny GGUF file, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest


def predict(path: Path, token_ids: Sequence[int], *, vocab_size: int) -> list[float]:
    """Return llama.cpp's log-probability of each token to follow `token_ids`.

    Skips the test where `xllamacpp`, which only benchmarks need, is not installed.
    """
    pytest.importorskip("xllamacpp")
    arguments = [str(path), json.dumps(list(token_ids)), str(vocab_size)]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


_PROGRAM = """
import json, os, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.port = sys.argv[1], 256, 1, 0
params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
server = xllamacpp.Server(params)
content, size = None, int(sys.argv[3])
for seed in range(50):  # The end of the text comes without probabilities: then draw again.
    answer = server.handle_completions({"prompt": json.loads(sys.argv[2]), "n_predict": 1,
        "n_probs": size, "temperature": 1, "samplers": [], "seed": seed, "cache_prompt": False})
    content = answer["choices"][0]["logprobs"]
    if content:
        break
values = {each["id"]: each["logprob"] for each in content["content"][0]["top_logprobs"]}
print(json.dumps([values[token] for token in range(size)]), flush=True)
os._exit(0)
"""
