"""Compare what the engine makes of a text with the float32 module and with llama.cpp: perplexity.

All get the same token ids, in windows that begin anew, each behind the token that begins a text.
Two sides are compared token by token: how hard a token is to tell is the same for both, so their
differences say far more than their two means do.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluvial.bench.engine import OpenSide, Target
from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.peer import check_installed
from fluvial.bench.plan import SEQUENCES
from fluvial.bench.process import open_side
from fluvial.bench.text import read_text
from fluvial.errors import EngineError, InputError
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer

WINDOW_TOKENS = 512
_SERIES = 16
"""Neighbouring tokens whose differences may hang together, for the standard error."""
OnProgress = Callable[[str, int, int], None]


def run(
    file: Path,
    target: Target,
    *,
    graph_dir: Path,
    threads: int,
    tokens: int = 20_000,
    window_tokens: int = WINDOW_TOKENS,
    on_progress: OnProgress = lambda side, done, total: None,
    open_side: OpenSide = open_side,
) -> dict[str, Any]:
    """Score the first `tokens` of a UTF-8 file on three sides and return their perplexities.

    With them come the mean differences of nats per token between ours and the others, and their
    standard errors (`compare`): positive where ours tells the text worse.

    llama.cpp decodes the windows token by token, eight at a time, since its server tells no
    probabilities of a prompt: that is most of the time this takes. Raises InputError when the text
    is shorter, UnsupportedError when llama.cpp is not installed.
    """
    check_installed()
    checkpoint = open_checkpoint(target.path)
    windows = cut_windows(file, checkpoint, tokens=tokens, window_tokens=window_tokens)
    room = {"context_tokens": window_tokens + 64}
    sides: dict[str, Mapping[str, Any]] = {
        "ours": {**room, "graph_dir": str(graph_dir)},
        "reference": {},
        "peer": {**room, "sequences": SEQUENCES},
    }
    scored: dict[str, Scored] = {}
    for name, more in sides.items():
        settings = {"path": str(target.path), "threads": threads, **more}
        scored[name] = _score(name, settings, windows, open_side, on_progress)
    figures = {name: each.to_json() for name, each in scored.items()}
    found = {name: each["perplexity"] for name, each in figures.items()}
    ours = scored["ours"].nats
    return {
        "model": target.name,
        "sha256": checkpoint.sha256,
        "file": str(file),
        "tokens": tokens,
        "window_tokens": window_tokens,
        **figures,
        "ours_over_reference": round(found["ours"] / found["reference"], 5),
        "ours_over_peer": round(found["ours"] / found["peer"], 5),
        "ours_minus_reference": compare(ours, scored["reference"].nats),
        "ours_minus_peer": compare(ours, scored["peer"].nats),
        "machine": describe_machine(),
        "versions": list_versions("onnxruntime", "torch", "xllamacpp"),
    }


def cut_windows(
    file: Path, checkpoint: Checkpoint, *, tokens: int, window_tokens: int
) -> list[list[int]]:
    """Cut the first `tokens` of a text into windows, each behind the token that begins a text."""
    tokenizer = open_tokenizer(checkpoint)
    ids = tokenizer.encode(read_text(file))
    if len(ids) < tokens:
        raise InputError(
            f"{file} has {len(ids):,} tokens; {tokens:,} are asked for: give a longer text"
        )
    if window_tokens >= checkpoint.declaration.context_tokens:
        raise InputError(
            f"windows of {window_tokens} tokens do not fit the model's context of "
            f"{checkpoint.declaration.context_tokens}"
        )
    first = choose_first_token(tokenizer)
    return [
        [first, *ids[start : min(start + window_tokens, tokens)]]
        for start in range(0, tokens, window_tokens)
    ]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a side made of a text: the loss of each token in nats, and the time it took."""

    nats: list[float]
    seconds: float

    def to_json(self) -> dict[str, float]:
        """Return the side's figures, rounded for people."""
        mean = math.fsum(self.nats) / len(self.nats)
        return {
            "nats_per_token": round(mean, 6),
            "perplexity": round(math.exp(mean), 5),
            "seconds": round(self.seconds, 1),
        }


def compare(nats: Sequence[float], others: Sequence[float]) -> dict[str, float | None]:
    """Return the mean difference of nats per token, and its standard error.

    The error counts means of 16 neighbours as independent, not tokens, since what one token leaves
    in the cache bears on the next; None with fewer than two such means.
    """
    differences = [a - b for a, b in zip(nats, others, strict=True)]
    mean = math.fsum(differences) / len(differences)
    ends = range(_SERIES, len(differences) + 1, _SERIES)
    means = [math.fsum(differences[end - _SERIES : end]) / _SERIES for end in ends]
    error = statistics.stdev(means) / len(means) ** 0.5 if len(means) > 1 else None
    return {
        "nats_per_token": round(mean, 6),
        "standard_error": None if error is None else round(error, 6),
    }


def _score(
    name: str,
    settings: Mapping[str, Any],
    windows: list[list[int]],
    open_side: OpenSide,
    on_progress: OnProgress,
) -> Scored:
    nats: list[list[float]] = []
    begun_s = time.perf_counter()
    with open_side(name, settings) as side:
        for start in range(0, len(windows), SEQUENCES):
            nats += side.ask("score", windows=windows[start : start + SEQUENCES])["value"]
            on_progress(name, min(len(nats), len(windows)), len(windows))
    seconds = time.perf_counter() - begun_s
    if [len(each) for each in nats] != [len(window) - 1 for window in windows]:
        raise EngineError(f"the side {name} did not score every token once")
    return Scored(nats=[each for window in nats for each in window], seconds=seconds)
