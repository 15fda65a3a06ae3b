"""Measure the engine against llama.cpp on the same files: both sides in one run, in turn.

Each side has a process of its own, asleep while the other is measured, and the settings with which
it was fastest in short trials, found for each figure alone. Each round measures every side once;
the order turns round after round. Speeds are medians over the rounds, ratios are ratios of medians.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.peer import check_installed
from fluvial.bench.plan import FIGURES, SEQUENCES, SIDES, Figure, Plan, list_options
from fluvial.bench.process import Side, open_side
from fluvial.bench.roofline import count_bytes
from fluvial.bench.search import Settings, search
from fluvial.bench.spread import summarise
from fluvial.engine.thread import count_usable
from fluvial.model.checkpoint import open_checkpoint

PACKAGES = ("onnxruntime", "numpy", "xllamacpp")
FIRST_MODEL = "smollm2-135m-instruct"
MODELS = (FIRST_MODEL, "qwen2.5-coder-0.5b-instruct")
_MARGIN_TOKENS = 64

OnNote = Callable[[str], None]
OpenSide = Callable[[str, Mapping[str, Any]], Side]
Rates = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model to measure: the name it goes by, and its file."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Series:
    """What is asked in each round: of which side, which request, with which values."""

    side: str
    do: str
    values: Mapping[str, Any]


def run(
    targets: Sequence[Target],
    *,
    graph_dir: Path,
    plan: Plan,
    threads: int | None = None,
    on_note: OnNote = lambda _: None,
    open_side: OpenSide = open_side,
) -> dict[str, Any]:
    """Measure each target and return the figures; SmolLM2's stand at the top level as well.

    `threads` fixes both sides' threads, else each takes its best. Built graphs are kept in
    `graph_dir`. Raises UnsupportedError when the peer is not installed.
    """
    check_installed()
    machine = describe_machine()
    models = {
        target.name: ModelBench(
            target,
            graph_dir=graph_dir,
            plan=plan,
            threads=threads,
            on_note=on_note,
            open_side=open_side,
        ).run()
        for target in targets
    }
    first = models.get(FIRST_MODEL) or next(iter(models.values()))
    return {
        **first,
        "models": models,
        "machine": machine | {"load_average_after": describe_machine()["load_average"]},
        "versions": list_versions(*PACKAGES),
        "plan": plan.to_json(),
    }


class ModelBench:
    """All figures of one model. `run` opens and closes what it needs."""

    def __init__(
        self,
        target: Target,
        *,
        graph_dir: Path,
        plan: Plan,
        threads: int | None,
        on_note: OnNote,
        open_side: OpenSide,
    ) -> None:
        self._target, self._plan, self._threads = target, plan, threads
        self._graph_dir, self._on_note, self._open_side = graph_dir, on_note, open_side
        checkpoint = open_checkpoint(target.path)
        self._context_tokens = checkpoint.declaration.context_tokens
        self._vocab_size = checkpoint.declaration.vocab_size
        self._bytes_per_token = count_bytes(checkpoint)
        self._sha256 = checkpoint.sha256
        self._best: dict[tuple[str, Figure], Settings] = {}

    def run(self) -> dict[str, Any]:
        """Measure everything; return the figures of this model."""
        reading = self._measure_reading()
        trials = self._choose_settings()
        decode = self._measure_decode()
        figures = {
            "model": self._target.name,
            "sha256": self._sha256,
            "decode": decode,
            "prefill": {str(n): self._measure_prefill(n) for n in self._plan.prefill_tokens},
            "batch8": self._measure_batch(),
            "context": self._measure_context(),
            **self._measure_load(),
            "settings": {
                side: {figure: self._best[side, figure] for figure in FIGURES} for side in SIDES
            },
            "trials": trials,
        }
        again = self._measure_reading()
        best = {name: max(gbps, again[name]) for name, gbps in reading.items()}
        return figures | {"roofline": self._describe_limit(decode["ours_tps"], best)}

    def _choose_settings(self) -> list[dict[str, Any]]:
        cores = count_usable()
        told: list[dict[str, Any]] = []
        for figure in FIGURES:
            for side in SIDES:
                options = list_options(
                    side, figure, plan=self._plan, cores=cores, threads=self._threads
                )
                best, trials = search(
                    options, measure=lambda settings, s=side, f=figure: self._try(s, f, settings)
                )
                self._best[side, figure] = best
                for trial in trials:
                    row = {"side": side, "figure": figure, "tps": round(trial.tps, 2)}
                    told.append(row | {"settings": trial.settings})
                self._note(f"{figure}: {side} is fastest with {_name(best)}")
        return told

    def _try(self, side: str, figure: Figure, settings: Settings) -> float:
        request, context = self._request_trial(side, figure)
        sequences = SEQUENCES if figure == "batch8" else 1
        with self._open(side, settings, context=context, sequences=sequences) as process:
            return max(_ask(process, request) for _ in range(self._plan.tries))

    def _request_trial(self, side: str, figure: Figure) -> tuple[Series, int]:
        """Return what a trial asks for, shorter than a round, and how much context it needs."""
        plan = self._plan
        most = self._context_tokens - _MARGIN_TOKENS
        if figure == "decode":
            tokens = plan.decode_tokens // 2
            return self._decode_series(side, tokens=tokens), plan.prompt_tokens + tokens
        if figure == "batch8":
            tokens = plan.batch_tokens // 2
            return self._batch_series(side, tokens=tokens), plan.prompt_tokens + tokens
        if figure == "prefill":
            length = min(plan.prefill_trial_tokens, most)
            prompt = {"prompt": self._draw(length)}
            return Series(side=side, do="prefill", values=prompt), length
        length = min(plan.context_trial_tokens, most)
        return self._context_series(side, length), length

    def _measure_decode(self) -> dict[str, Any]:
        tokens = self._plan.decode_tokens
        series = {side: self._decode_series(side, tokens=tokens) for side in SIDES}
        series["ours_with_adapter"] = self._decode_series("ours", tokens=tokens, adapter=True)
        context = self._plan.prompt_tokens + tokens
        rates = self._alternate("decode", "decode", series, context=context)
        figures = compare(rates)
        adapted = summarise(rates["ours_with_adapter"])
        figures["ours_with_adapter_tps"] = round(adapted.median, 2)
        figures["ratio_with_adapter"] = round(adapted.median / figures["peer_tps"], 4)
        return figures

    def _measure_prefill(self, tokens: int) -> dict[str, Any] | None:
        if tokens + _MARGIN_TOKENS > self._context_tokens:
            self._note(f"prefill of {tokens} tokens: left out, the model takes fewer")
            return None
        prompt = self._draw(tokens)
        series = {
            side: Series(side=side, do="prefill", values={"prompt": prompt}) for side in SIDES
        }
        label = f"prefill of {tokens}"
        return compare(self._alternate(label, "prefill", series, context=tokens))

    def _measure_batch(self) -> dict[str, Any]:
        tokens = self._plan.batch_tokens
        series = {side: self._batch_series(side, tokens=tokens) for side in SIDES}
        context = self._plan.prompt_tokens + tokens
        rates = self._alternate(
            "batch of 8", "batch8", series, context=context, sequences=SEQUENCES
        )
        return compare(rates) | {"distinct_adapters": SEQUENCES}

    def _measure_context(self) -> dict[str, Any]:
        """Measure decoding after few tokens and after many; the prompt is read once a side."""
        plan = self._plan
        long = min(plan.long_context_tokens, self._context_tokens)
        found: dict[int, dict[str, Any]] = {}
        for length in (plan.short_context_tokens, long):
            series = {side: self._context_series(side, length) for side in SIDES}
            label = f"decode at {length} tokens of context"
            found[length] = compare(self._alternate(label, "context", series, context=length))
        short_figures, long_figures = found.values()
        kept = {
            side: round(long_figures[f"{side}_tps"] / short_figures[f"{side}_tps"], 4)
            for side in SIDES
        }
        return {
            "at": {str(length): figures for length, figures in found.items()},
            "ours_ratio": kept["ours"],
            "peer_ratio": kept["peer"],
        }

    def _measure_load(self) -> dict[str, Any]:
        plan = self._plan
        figures: dict[str, Rates] = {name: {side: [] for side in SIDES} for name in _LOAD_FIGURES}
        for index in range(plan.rounds):
            for side in _turn(SIDES, index):
                settings = self._best[side, "decode"]
                with self._open(side, settings, context=plan.load_context_tokens) as process:
                    _ask(process, self._decode_series(side, tokens=plan.prompt_tokens))
                    told = {**process.loaded, **process.ask("measure_memory")}
                for name in _LOAD_FIGURES:
                    figures[name][side].append(float(told[name]))
            self._note(f"load, round {index + 1} of {plan.rounds}: {_tell(figures['load_s'])} s")
        load, memory, peak = (_medians(figures[name]) for name in _LOAD_FIGURES)
        peaks = {f"{side}_peak": value for side, value in peak.items() if side in SIDES}
        return {"load_s": load, "rss_mb": memory | peaks}

    def _alternate(
        self,
        label: str,
        figure: Figure,
        series: Mapping[str, Series],
        *,
        context: int,
        sequences: int = 1,
    ) -> Rates:
        """Ask every series once a round, after one round that does not count."""
        rates: Rates = {name: [] for name in series}
        with ExitStack() as stack:
            sides = {
                side: stack.enter_context(
                    self._open(side, self._best[side, figure], context=context, sequences=sequences)
                )
                for side in SIDES
            }
            for each in series.values():
                _ask(sides[each.side], each)
            for index in range(self._plan.rounds):
                for name in _turn(tuple(series), index):
                    rates[name].append(_ask(sides[series[name].side], series[name]))
                last = {name: values[-1:] for name, values in rates.items()}
                rounds = f"round {index + 1} of {self._plan.rounds}"
                self._note(f"{label}, {rounds}: {_tell(last)} tokens/s")
        return rates

    def _open(self, side: str, settings: Settings, *, context: int, sequences: int = 1) -> Side:
        room = min(context + _MARGIN_TOKENS, self._context_tokens)
        sizes: dict[str, Any] = {
            "path": str(self._target.path),
            "context_tokens": room,
            "sequences": sequences,
        }
        if side == "ours":
            sizes["graph_dir"] = str(self._graph_dir)
        return self._open_side(side, sizes | settings)

    def _decode_series(self, side: str, *, tokens: int, adapter: bool = False) -> Series:
        prompt = self._draw(self._plan.prompt_tokens)
        values = {"prompt": prompt, "tokens": tokens, "adapter": adapter}
        return Series(side=side, do="decode", values=values)

    def _context_series(self, side: str, length: int) -> Series:
        """Ask for tokens up to `length` of context, of which all before is read only once."""
        tokens = self._plan.context_decode_tokens
        values = {"prompt": self._draw(length - tokens), "tokens": tokens, "kept": True}
        return Series(side=side, do="decode", values=values)

    def _batch_series(self, side: str, *, tokens: int) -> Series:
        """Ask for eight sequences; ours has eight adapters, the peer none."""
        count = self._plan.prompt_tokens
        prompts = [self._draw(count, seed=seed) for seed in range(SEQUENCES)]
        values = {"prompts": prompts, "tokens": tokens, "adapters": side == "ours"}
        return Series(side=side, do="batch", values=values)

    def _draw(self, count: int, *, seed: int = 0) -> list[int]:
        """Draw token ids, the same for both sides; speed does not depend on what they say."""
        rng = np.random.Generator(np.random.PCG64(seed))
        low, high = self._vocab_size // 16, self._vocab_size // 2
        return [int(token) for token in rng.integers(low, high, count)]

    def _measure_reading(self) -> dict[str, float]:
        sizes = {"read_gbps": self._plan.reading_bytes, "cached_gbps": self._bytes_per_token}
        best = dict.fromkeys(sizes, 0.0)
        with self._open_side("reading", {}) as process:
            for threads in range(1, count_usable() + 1):
                for name, size in sizes.items():
                    values = {"threads": threads, "array_bytes": size}
                    request = Series(side="reading", do="measure", values=values)
                    best[name] = max(best[name], _ask(process, request))
        return best

    def _describe_limit(self, tps: float, reading: Mapping[str, float]) -> dict[str, Any]:
        needed_gbps = tps * self._bytes_per_token / 1e9
        return {
            "read_gbps": round(reading["read_gbps"], 2),
            "bytes_per_token": self._bytes_per_token,
            "fraction_of_limit": round(needed_gbps / reading["read_gbps"], 4),
            "read_gbps_at_model_size": round(reading["cached_gbps"], 2),
            "fraction_at_model_size": round(needed_gbps / reading["cached_gbps"], 4),
        }

    def _note(self, text: str) -> None:
        self._on_note(f"{self._target.name}: {text}")


_LOAD_FIGURES = ("load_s", "rss_mb", "peak_mb")


def compare(rates: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return the medians of both sides, their ratio, and the spread of every series and ratio."""
    spreads = {name: summarise(values) for name, values in rates.items()}
    pairs = zip(rates["ours"], rates["peer"], strict=True)
    ratios = summarise([ours / peer for ours, peer in pairs])
    return {
        "ours_tps": round(spreads["ours"].median, 2),
        "peer_tps": round(spreads["peer"].median, 2),
        "ratio": round(spreads["ours"].median / spreads["peer"].median, 4),
        "spread": {
            **{name: spread.to_json() for name, spread in spreads.items()},
            "ratio": ratios.to_json(),
        },
    }


def _ask(side: Side, series: Series) -> float:
    return float(side.ask(series.do, **series.values)["value"])


def _turn(names: Sequence[str], index: int) -> Sequence[str]:
    return names if index % 2 == 0 else tuple(reversed(names))


def _medians(rates: Rates) -> dict[str, Any]:
    spreads = {side: summarise(values) for side, values in rates.items()}
    medians: dict[str, Any] = {side: round(each.median, 4) for side, each in spreads.items()}
    return medians | {"spread": {side: each.to_json() for side, each in spreads.items()}}


def _tell(rates: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{name} {values[-1]:.2f}" for name, values in rates.items())


def _name(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
