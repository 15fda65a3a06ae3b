"""The learner's own process: reads requests from standard input, answers on standard output.

It runs at low priority, so that decoding keeps its cores, and ends when its parent does.
"""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.numpy

from fluvial.adapt.calibration import ensure_basis
from fluvial.adapt.learner import Learner
from fluvial.adapt.probe import load_probe
from fluvial.adapt.rule import Read, Rule
from fluvial.errors import FluvialError
from fluvial.frame import ClosedError, read_frame, write_frame
from fluvial.model.basis import Bases
from fluvial.model.opening import open_model, open_tokenizer

NICENESS = 10
Reply = tuple[dict[str, Any], bytes]


def main() -> None:
    """Serve one parent until it closes the pipe."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    os.nice(NICENESS)
    with contextlib.suppress(ClosedError, KeyboardInterrupt):
        _serve(requests, replies)


def _serve(requests: BinaryIO, replies: BinaryIO) -> None:
    header, _ = read_frame(requests)
    learner = _open(header)
    threads, timings = header["threads"], {}
    if not threads:
        threads, timings = _measure_threads(learner)
    learner.use_threads(threads)
    write_frame(replies, {"ready": True, "threads": threads, "timings": timings})
    while True:
        header, body = read_frame(requests)
        write_frame(replies, *_answer(learner, header, body))


def _open(header: dict[str, Any]) -> Learner:
    checkpoint = open_model(Path(header["path"]), sha256=header["sha256"])
    graph_dir, budget = header["graph_dir"], header["drift_budget"]
    tokenizer = open_tokenizer(checkpoint)
    learner = Learner(
        checkpoint,
        rule=Rule(**header["rule"]),
        graph_dir=None if graph_dir is None else Path(graph_dir),
        positions=header["positions"],
        probe=tokenizer.encode(load_probe()),
        drift_budget=float("inf") if budget is None else budget,
    )
    if header["bases_dir"] is not None:
        bases = Bases(Path(header["bases_dir"]))
        ensure_basis(learner, checkpoint, bases=bases, tokenizer=tokenizer)
    return learner


def _answer(learner: Learner, header: dict[str, Any], body: bytes) -> Reply:
    try:
        return _ACTIONS[header["do"]](learner, header, body)
    except (FluvialError, KeyError, ValueError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}, b""


def _load(learner: Learner, header: dict[str, Any], body: bytes) -> Reply:
    learner.load(header["session"], safetensors.numpy.load(body) if body else None)
    return {}, b""


def _read(learner: Learner, header: dict[str, Any], _: bytes) -> Reply:
    results = learner.read_all([_take_read(each) for each in header["reads"]])
    return {"results": [asdict(result) for result in results]}, b""


def _take_read(fields: dict[str, Any]) -> Read:
    place = fields.pop("place")
    return Read(**fields, place=None if place is None else tuple(place))


def _settle(learner: Learner, header: dict[str, Any], _: bytes) -> Reply:
    return asdict(learner.settle(header["session"])), b""


def _score(learner: Learner, header: dict[str, Any], body: bytes) -> Reply:
    tensors = safetensors.numpy.load(body) if body else None
    return {"nats": learner.score(header["context"], header["chunk"], tensors=tensors)}, b""


def _measure_drift(learner: Learner, header: dict[str, Any], body: bytes) -> Reply:
    del header
    return {"drift": learner.measure_drift(safetensors.numpy.load(body))}, b""


def _export(learner: Learner, header: dict[str, Any], _: bytes) -> Reply:
    return {}, safetensors.numpy.save(learner.export(header["session"]))


def _drop(learner: Learner, header: dict[str, Any], _: bytes) -> Reply:
    learner.drop(header["session"])
    return {}, b""


_ACTIONS: dict[str, Callable[[Learner, dict[str, Any], bytes], Reply]] = {
    "load": _load,
    "read": _read,
    "settle": _settle,
    "score": _score,
    "drift": _measure_drift,
    "export": _export,
    "drop": _drop,
}


def _measure_threads(learner: Learner, *, rounds: int = 3) -> tuple[int, dict[int, float]]:
    """Choose how many threads by timing short readings; fewer wins near a tie.

    Returns the choice and the median seconds of each candidate.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    candidates = sorted({1, max(1, cores // 2), cores})
    times: dict[int, list[float]] = {count: [] for count in candidates}
    for _ in range(rounds):
        for count in candidates:
            learner.use_threads(count)
            started = time.perf_counter()
            learner.score([0], list(range(1, 65)))
            times[count].append(time.perf_counter() - started)
    medians = {count: statistics.median(values) for count, values in times.items()}
    best = min(medians.values())
    chosen = next(count for count in candidates if medians[count] <= best * 1.05)
    return chosen, medians


if __name__ == "__main__":
    main()
