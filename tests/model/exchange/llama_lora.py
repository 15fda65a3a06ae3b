"""llama.cpp with a LoRA as an oracle, in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def predict(path: Path, token_ids: Sequence[int], *, vocab_size: int, lora: Path) -> list[float]:
    """Return llama.cpp's log-probability of each token to follow `token_ids`."""
    return _run(_PREDICT, [str(path), str(lora), json.dumps(list(token_ids)), str(vocab_size)])


def score(path: Path, windows: Sequence[Sequence[int]], *, lora: Path | None) -> list[list[float]]:
    """Return the loss in nats of each window's tokens but the first."""
    return _run(_SCORE, [str(path), str(lora or ""), json.dumps([list(each) for each in windows])])


def _run(program: str, arguments: list[str]) -> Any:
    """Skips the test where `xllamacpp`, which only benchmarks need, is not installed."""
    pytest.importorskip("xllamacpp")
    done = subprocess.run(
        [sys.executable, "-c", _OPEN + program, *arguments],
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


_OPEN = """
import json, os, sys, xllamacpp
from fluvial.bench.peer import Peer

def open_server(path, lora, context):
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.port = path, context, 1, 0
    params.warmup = False
    params.fit_params = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if lora:
        info = xllamacpp.CommonAdapterLoraInfo()
        info.path, info.scale = lora, 1.0
        params.lora_adapters = [info]
    return xllamacpp.Server(params)

def finish(value):
    print(json.dumps(value), flush=True)
    os._exit(0)

"""

_PREDICT = """
server, content, size = open_server(sys.argv[1], sys.argv[2], 256), None, int(sys.argv[4])
for seed in range(50):  # The end of the text comes without probabilities: then draw again.
    answer = server.handle_completions({"prompt": json.loads(sys.argv[3]), "n_predict": 1,
        "n_probs": size, "temperature": 1, "samplers": [], "seed": seed, "cache_prompt": False})
    content = answer["choices"][0]["logprobs"]
    if content:
        break
values = {each["id"]: each["logprob"] for each in content["content"][0]["top_logprobs"]}
finish([values[token] for token in range(size)])
"""

_SCORE = """
class LoraPeer(Peer):
    def __init__(self, path, lora):
        self._server, self._sequences, self._plain = open_server(path, lora, 1024), 1, -1

finish(LoraPeer(sys.argv[1], sys.argv[2]).score(json.loads(sys.argv[3])))
"""
