"""Where the time of a step goes: the graph under ONNX Runtime's profiler, by kind of operator.

Three steps are looked at: one token, eight tokens of eight sequences, 512 tokens of a prompt. The
profiler itself costs a little; the time of the whole step is therefore measured without it.
"""

import json
import statistics
import tempfile
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.opening import open_decoder
from fluvial.engine.protocol import Cache, Decoder, Part
from fluvial.errors import EngineError, ModelError
from fluvial.model.checkpoint import Checkpoint, open_checkpoint

WARM_STEPS, STEPS = 3, 20
PREFIX_TOKENS = 128
WHOLE, BETWEEN, OUTSIDE = "whole step", "between operators", "outside the graph"
SCENARIOS: Mapping[str, tuple[int, int]] = {
    "1 token": (1, 1),
    "8 sequences": (8, 1),
    "prefill of 512": (1, 512),
}
"""What each step holds: sequences, and new tokens of each."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One model's profile: for each scenario, microseconds of a step by kind of operator."""

    model: str
    place: str
    times_us: Mapping[str, Mapping[str, float]]


def run(path: Path, *, name: str, graph_dir: Path, threads: int, steps: int = STEPS) -> Profile:
    """Measure one model's steps, on a context of 128 tokens, without adapters."""
    checkpoint = open_checkpoint(path)
    times = {
        scenario: measure(
            checkpoint,
            graph_dir=graph_dir,
            threads=threads,
            sequences=sequences,
            tokens=tokens,
            steps=max(1, steps // 5) if tokens > 1 else steps,
        )
        for scenario, (sequences, tokens) in SCENARIOS.items()
    }
    return Profile(model=name, place=_describe_place(threads), times_us=times)


def measure(
    checkpoint: Checkpoint,
    *,
    graph_dir: Path,
    threads: int,
    sequences: int,
    tokens: int,
    steps: int,
) -> dict[str, float]:
    """Return the median microseconds of one step: by kind of operator, then what is around them."""
    sizes: dict[str, Any] = {
        "graph_dir": graph_dir,
        "threads": threads,
        "context_tokens": PREFIX_TOKENS + tokens,
        "sequences": sequences,
    }
    whole_us = _time_steps(
        open_decoder(checkpoint, **sizes), sequences=sequences, tokens=tokens, steps=steps
    )
    with tempfile.TemporaryDirectory() as folder:
        decoder = open_decoder(checkpoint, **sizes, profile=Path(folder) / "step")
        _time_steps(decoder, sequences=sequences, tokens=tokens, steps=steps)
        operators, run_us = read_trace(decoder.stop_profiling(), steps=steps)
    inside_us = sum(operators.values())
    return {
        **operators,
        BETWEEN: max(0.0, run_us - inside_us),
        OUTSIDE: max(0.0, whole_us - run_us),
        WHOLE: whole_us,
    }


def read_trace(path: Path, *, steps: int) -> tuple[dict[str, float], float]:
    """Read ONNX Runtime's trace; return the median microseconds of its last `steps` runs.

    By kind of operator, the longest first, and of the whole run. Raises ModelError when the trace
    has fewer runs. Format: https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
    """
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    runs = sorted(
        (event for event in events if event.get("name") == "model_run"),
        key=lambda event: event["ts"],
    )[-steps:]
    if len(runs) < steps:
        raise ModelError(f"the profile holds {len(runs)} steps, {steps} are needed")
    begins = [run["ts"] for run in runs]
    sums: defaultdict[str, list[float]] = defaultdict(lambda: [0.0] * steps)
    for event in events:
        is_kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        index = bisect_right(begins, event["ts"]) - 1
        if is_kernel and index >= 0:
            sums[event["args"]["op_name"]][index] += event["dur"]
    medians = {name: statistics.median(each) for name, each in sums.items()}
    ordered = sorted(medians.items(), key=lambda item: -item[1])
    return dict(ordered), statistics.median(run["dur"] for run in runs)


def _time_steps(decoder: Decoder, *, sequences: int, tokens: int, steps: int) -> float:
    """Return the median microseconds of a step, each on the same context of 128 tokens."""
    caches = [_read_prefix(decoder) for _ in range(sequences)]
    took_s: list[float] = []
    for index in range(WARM_STEPS + steps):
        for cache in caches:
            decoder.truncate(cache, PREFIX_TOKENS)
            _reserve(decoder, cache, PREFIX_TOKENS + tokens)
        begun_s = time.perf_counter()
        _step(decoder, caches, tokens=tokens)
        if index >= WARM_STEPS:
            took_s.append(time.perf_counter() - begun_s)
    for cache in caches:
        decoder.release(cache)
    return statistics.median(took_s) * 1e6


def _read_prefix(decoder: Decoder) -> Cache:
    cache = decoder.new_cache()
    _reserve(decoder, cache, PREFIX_TOKENS)
    decoder.step([Part(cache=cache, tokens=range(1, PREFIX_TOKENS + 1))])
    decoder.snapshot(cache)
    return cache


def _reserve(decoder: Decoder, cache: Cache, tokens: int) -> None:
    if not decoder.reserve(cache, tokens):
        raise EngineError(f"the cache has no room for {tokens} tokens")


def _step(decoder: Decoder, caches: Sequence[Cache], *, tokens: int) -> None:
    wanted = (tokens - 1,)
    ids = [1 + index % 100 for index in range(tokens)]
    decoder.step([Part(cache=cache, tokens=ids, wanted=wanted) for cache in caches])


def _describe_place(threads: int) -> str:
    machine = describe_machine()
    versions = list_versions("onnxruntime")
    extensions = "/".join(machine["vector_extensions"]) or "no vector extensions"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine['processor']} ({extensions}), threads: {threads}, {named}"
