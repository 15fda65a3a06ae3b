"""Measure what learning while reading is worth: frozen and adapting, same windows, one run.

One pass over each text, score before learn. The two sides alternate piece by piece, both on the
engine, so that a machine whose speed drifts treats both alike; times are sums over pieces, and what
a version costs (its drift is measured) counts as the adapting side's.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fluvial.adapt.bounding import Settlement
from fluvial.adapt.calibration import ensure_basis
from fluvial.adapt.learner import Learner
from fluvial.adapt.probe import load_probe
from fluvial.adapt.rule import Rule
from fluvial.bench.machine import describe_machine, list_versions
from fluvial.bench.text import read_text
from fluvial.config import Settings
from fluvial.model.adapter import Tensors
from fluvial.model.adapter_file import encode
from fluvial.model.basis import FOLDER, Bases, Basis
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer
from fluvial.model.tokenizer import Tokenizer
from fluvial.note import tell_all

QUICK_TOKENS = 2048
LONG_WINDOWS = 4
UNRELATED_TOKENS = 8192
PIECE_TOKENS = 256
"""What the frozen side reads at once: as fast as it gets."""
SESSION = "bench"
OnTokens = Callable[[str, int, int], None]
Ask = Callable[[Tensors | None], int]
"""Asks a fixed set of instructions under an adapter (None: the base); returns how many pass."""


@dataclass(kw_only=True)
class _Sums:
    """What one pass over a text adds up."""

    frozen_nats: float = 0.0
    adapted_nats: float = 0.0
    frozen_s: float = 0.0
    adapted_s: float = 0.0
    updates: int = 0
    skipped: int = 0
    settled: list[Settlement] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Model:
    """A model to read with, and how its bytes are counted."""

    name: str
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    learner: Learner
    rule: Rule
    first: int
    basis: Basis | None

    def count_bytes(self, ids: Sequence[int]) -> int:
        return sum(len(self.tokenizer.token_bytes(token)) for token in ids)

    def score_bpb(
        self,
        ids: Sequence[int],
        *,
        tensors: Tensors | None = None,
        windows: int = 1,
        on_tokens: Callable[[int], None] = lambda done: None,
    ) -> float:
        """Return bits per byte of a text read without learning."""
        nats = self.learner.score(
            [self.first], ids, tensors=tensors, windows=windows, on_tokens=on_tokens
        )
        return math.fsum(nats) / math.log(2) / self.count_bytes(ids)


def run(
    files: Sequence[Path],
    *,
    model_path: Path,
    settings: Settings,
    quick: bool = False,
    tokens: int | None = None,
    unrelated: Path | None = None,
    beside_path: Path | None = None,
    ask: Ask | None = None,
    long_windows: bool = True,
    on_tokens: OnTokens = lambda path, done, total: None,
) -> dict[str, Any]:
    """Read each file frozen and adapting, and return the table of figures.

    `tokens` stops after that many of each file, `quick` after 2,048. Each starts from the base.
    `unrelated` is scored before and after each; `beside_path`, a second model, reads the same bytes
    frozen; `ask` counts instructions that are followed, before and after. Without `long_windows`
    nothing is read in windows four times as long. Raises InputError for a
    file that can't be read as UTF-8 or is empty.
    """
    texts = [(path, read_text(path)) for path in files]
    foreign = None if unrelated is None else read_text(unrelated)
    model = _open(model_path, settings, learns=True)
    beside = None if beside_path is None else _open(beside_path, settings, learns=False)
    limit = QUICK_TOKENS if quick else tokens
    ids = None if foreign is None else model.tokenizer.encode(foreign)[:UNRELATED_TOKENS]
    before = {
        "unrelated_before_bpb": None if ids is None else round(model.score_bpb(ids), 5),
        "instructions_before": None if ask is None else ask(None),
    }
    rows: list[dict[str, Any]] = []
    for path, text in texts:
        row = _measure(
            path,
            text,
            model,
            settings=settings,
            limit=limit,
            long_windows=long_windows,
            on_tokens=on_tokens,
        )
        tensors = model.learner.export(SESSION)
        row["state_bytes"] = _count_bytes(model, tensors)
        row |= before | _measure_damage(model, tensors, ids=ids, ask=ask)
        row["beside_bpb"] = None if beside is None else _read_beside(beside, text, row)
        rows.append(row)
    return {
        "model": model.name,
        "beside": None if beside is None else beside.name,
        "rule": asdict(model.rule),
        "version_tokens": settings.version_tokens,
        "drift_budget": settings.drift_budget,
        "files": rows,
        "median_gain_pct": round(statistics.median(row["gain_pct"] for row in rows), 3),
        "median_overhead": round(statistics.median(row["overhead"] for row in rows), 3),
        "machine": describe_machine(),
        "versions": list_versions("onnxruntime", "torch"),
    }


def _open(path: Path, settings: Settings, *, learns: bool) -> _Model:
    checkpoint = open_checkpoint(path)
    tokenizer = open_tokenizer(checkpoint)
    positions = min(settings.context_tokens, checkpoint.declaration.context_tokens)
    rule = Rule.from_settings(settings, checkpoint.declaration).fit(positions // LONG_WINDOWS)
    learner = Learner(
        checkpoint,
        rule=rule,
        graph_dir=settings.data_dir / "graphs",
        positions=positions,
        probe=tokenizer.encode(load_probe()),
        drift_budget=settings.drift_budget,
        most_windows=LONG_WINDOWS,
    )
    learner.use_threads(settings.learner_threads or 1)
    basis = None
    if learns and settings.calibrate:
        bases = Bases(settings.data_dir / FOLDER)
        basis = ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer)
    return _Model(
        name=path.parent.name if path.stem == "model" else path.stem,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        learner=learner,
        rule=rule,
        first=choose_first_token(tokenizer),
        basis=basis,
    )


def _measure(
    path: Path,
    text: str,
    model: _Model,
    *,
    settings: Settings,
    limit: int | None,
    long_windows: bool,
    on_tokens: OnTokens,
) -> dict[str, Any]:
    ids = model.tokenizer.encode(text)[:limit]
    size_bytes = model.count_bytes(ids)
    sums = _read(
        model, ids, settings=settings, on_tokens=lambda n: on_tokens(str(path), n, len(ids))
    )
    long_bpb = None
    if long_windows:
        name = f"{path}, long windows"
        long_bpb = model.score_bpb(
            ids, windows=LONG_WINDOWS, on_tokens=lambda n: on_tokens(name, n, len(ids))
        )
    frozen_bpb, adapted_bpb = (
        nats / math.log(2) / size_bytes for nats in (sums.frozen_nats, sums.adapted_nats)
    )
    return {
        "path": str(path),
        "tokens": len(ids),
        "bytes": size_bytes,
        "window_tokens": model.rule.window_tokens,
        "frozen_bpb": round(frozen_bpb, 5),
        "long_window_bpb": None if long_bpb is None else round(long_bpb, 5),
        "adapted_bpb": round(adapted_bpb, 5),
        "gain_pct": round(100 * (1 - adapted_bpb / frozen_bpb), 3),
        "updates": sums.updates,
        "skipped": sums.skipped,
        "drift": round(sums.settled[-1].drift, 5),
        "scaled_back": sum(settled.scale < 1 for settled in sums.settled),
        "notes": sorted({tell_all(settled.notes) for settled in sums.settled if settled.notes}),
        "frozen_s": round(sums.frozen_s, 2),
        "adapted_s": round(sums.adapted_s, 2),
        "overhead": round(sums.adapted_s / sums.frozen_s, 3),
    }


def _read(
    model: _Model, ids: Sequence[int], *, settings: Settings, on_tokens: Callable[[int], None]
) -> _Sums:
    """Read a text on both sides, piece by piece in turn.

    A piece is what the frozen side reads at once; the learning side reads it in its own chunks.
    """
    learner, sums = model.learner, _Sums()
    rule = model.rule
    learner.load(SESSION, None)
    learner.load("frozen", None)
    piece_tokens = rule.chunk_tokens * max(1, PIECE_TOKENS // rule.chunk_tokens)
    unsaved = 0
    for start in range(0, len(ids), piece_tokens):
        piece = ids[start : start + piece_tokens]
        context = [model.first, *ids[:start]]
        begun_s = time.perf_counter()
        sums.frozen_nats += learner.read_frozen(
            "frozen", context=context, chunk=piece, place=("text", start)
        )
        sums.frozen_s += time.perf_counter() - begun_s
        begun_s = time.perf_counter()
        _learn(learner, sums, context, piece, chunk_tokens=rule.chunk_tokens)
        unsaved += len(piece)
        if unsaved >= settings.version_tokens or start + len(piece) == len(ids):
            sums.settled.append(learner.settle(SESSION))
            learner.restart("frozen")
            unsaved = 0
        sums.adapted_s += time.perf_counter() - begun_s
        on_tokens(start + len(piece))
    return sums


def _learn(
    learner: Learner,
    sums: _Sums,
    context: Sequence[int],
    piece: Sequence[int],
    *,
    chunk_tokens: int,
) -> None:
    for at in range(0, len(piece), chunk_tokens):
        result = learner.read(
            SESSION,
            context=[*context, *piece[:at]],
            chunk=piece[at : at + chunk_tokens],
            learn=True,
            compare=False,
            place=("text", len(context) - 1 + at),
        )
        sums.adapted_nats += result.adapted_nats
        sums.updates += result.learned
        sums.skipped += result.skipped


def _measure_damage(
    model: _Model, tensors: Tensors, *, ids: Sequence[int] | None, ask: Ask | None
) -> dict[str, Any]:
    after = None if ids is None else model.score_bpb(ids, tensors=tensors)
    return {
        "unrelated_after_bpb": None if after is None else round(after, 5),
        "instructions_after": None if ask is None else ask(tensors),
    }


def _count_bytes(model: _Model, tensors: Tensors) -> int:
    declaration, sha256 = model.checkpoint.declaration, model.checkpoint.sha256
    basis = model.basis
    return len(encode(tensors, checkpoint=sha256, declaration=declaration, basis=basis))


def _read_beside(beside: _Model, text: str, row: dict[str, Any]) -> float:
    """Return bits per byte of the same bytes, as far as its tokens can be cut there."""
    whole = text.encode()[: row["bytes"]].decode(errors="ignore")
    return round(beside.score_bpb(beside.tokenizer.encode(whole)), 5)
