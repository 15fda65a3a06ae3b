"""Measure what learning while reading is worth: frozen and adapting, same windows, one run.

One pass over each text, score before learn. The two sides alternate chunk by chunk, so that a
machine whose speed drifts treats both alike; times are sums over chunks.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import Rule
from fluvial.bench.text import read_text
from fluvial.config import Settings
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer
from fluvial.model.tokenizer import Tokenizer

QUICK_TOKENS = 2048
OnChunk = Callable[[str, int, int], None]


@dataclass(kw_only=True)
class _Sums:
    frozen_nats: float = 0.0
    adapted_nats: float = 0.0
    frozen_s: float = 0.0
    adapted_s: float = 0.0


def run(
    files: Sequence[Path],
    *,
    model_path: Path,
    settings: Settings,
    quick: bool = False,
    tokens: int | None = None,
    on_chunk: OnChunk | None = None,
) -> dict[str, Any]:
    """Read each file twice, frozen and adapting, and return the table of figures.

    `tokens` stops after that many of each file, `quick` after 2,048. Each starts from the base.
    Raises InputError for a file that can't be read as UTF-8 or is empty.
    """
    texts = [(path, read_text(path)) for path in files]
    checkpoint = open_checkpoint(model_path)
    tokenizer = open_tokenizer(checkpoint)
    rule = Rule.from_settings(settings)
    learner = Learner(checkpoint, rule=rule)
    if settings.learner_threads:
        learner.use_threads(settings.learner_threads)
    limit = QUICK_TOKENS if quick else tokens
    rows = [
        _measure(
            path,
            text,
            learner=learner,
            tokenizer=tokenizer,
            rule=rule,
            limit=limit,
            on_chunk=on_chunk,
        )
        for path, text in texts
    ]
    return {
        "model": model_path.parent.name if model_path.stem == "model" else model_path.stem,
        "rule": {"name": "adam", **vars(rule)},
        "files": rows,
        "median_gain_pct": round(statistics.median(row["gain_pct"] for row in rows), 3),
        "median_overhead": round(statistics.median(row["overhead"] for row in rows), 3),
    }


def _measure(
    path: Path,
    text: str,
    *,
    learner: Learner,
    tokenizer: Tokenizer,
    rule: Rule,
    limit: int | None,
    on_chunk: OnChunk | None,
) -> dict[str, Any]:
    ids = tokenizer.encode(text)[:limit]
    num_bytes = sum(len(tokenizer.token_bytes(token)) for token in ids)
    first = choose_first_token(tokenizer)
    learner.load("bench", None)
    sums = _Sums()
    for start in range(0, len(ids), rule.chunk_tokens):
        context = [first, *ids[:start]][-max(1, rule.window_tokens) :]
        _read_both(learner, sums, context, ids[start : start + rule.chunk_tokens])
        if on_chunk is not None:
            on_chunk(str(path), min(start + rule.chunk_tokens, len(ids)), len(ids))
    frozen_bpb, adapted_bpb = (
        nats / log(2) / num_bytes for nats in (sums.frozen_nats, sums.adapted_nats)
    )
    return {
        "path": str(path),
        "tokens": len(ids),
        "bytes": num_bytes,
        "window_tokens": rule.window_tokens + rule.chunk_tokens,
        "frozen_bpb": round(frozen_bpb, 5),
        "adapted_bpb": round(adapted_bpb, 5),
        "gain_pct": round(100 * (1 - adapted_bpb / frozen_bpb), 3),
        "frozen_s": round(sums.frozen_s, 2),
        "adapted_s": round(sums.adapted_s, 2),
        "overhead": round(sums.adapted_s / sums.frozen_s, 3),
    }


def _read_both(learner: Learner, sums: _Sums, context: Sequence[int], chunk: Sequence[int]) -> None:
    started = time.perf_counter()
    sums.frozen_nats += learner.score(context, chunk)
    between = time.perf_counter()
    result = learner.read("bench", context=context, chunk=chunk, learn=True, compare=False)
    sums.adapted_nats += result.adapted_nats
    sums.frozen_s += between - started
    sums.adapted_s += time.perf_counter() - between
