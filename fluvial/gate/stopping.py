"""A risk's samples in parts, so that a test may stop as soon as it has seen enough.

Only whole parts of whole clusters count, in an order that the seed draws: what is counted is then a
beginning of a random sequence, for which the bounds of `sequence.py` hold whenever it ends. Were
samples counted as they happen to end, short answers would come first, and refusals are short.
Imports inspect_ai.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai.log import EvalSample

from fluvial.gate.trial import Foreign, Server, Trial, run_trial

PARTS = 10
MIN_PART_SAMPLES = 10


def run_in_parts(
    task: Task | Foreign,
    *,
    server: Server,
    seed: int,
    log_dir: Path,
    is_decided: Callable[[Sequence[EvalSample]], bool],
    on_sample: Callable[[], None] = lambda: None,
) -> Trial:
    """Run a task part by part, each with a log of its own, until `is_decided` or none is left.

    The log returned is the last one. A part that was interrupted does not count. Raises as
    `run_trial` does.
    """
    seen: list[EvalSample] = []
    log: Path | None = None
    for part in split(task, seed=seed):
        trial = run_trial(
            task, server=server, seed=seed, log_dir=log_dir, on_sample=on_sample, part=part
        )
        if trial.interrupted:
            return Trial(samples=seen, log=log, interrupted=True)
        seen, log = [*seen, *trial.samples], trial.log
        if is_decided(seen):
            break
    return Trial(samples=seen, log=log, interrupted=False)


def split(task: Task | Foreign, *, seed: int) -> Iterator[Mapping[str, Any]]:
    """Yield each part as options of Inspect's eval: places for foreign tasks, names for ours."""
    if isinstance(task, Foreign):
        size = max(MIN_PART_SAMPLES, -(-task.samples // PARTS))
        for start in range(0, task.samples, size):
            yield {"limit": (start, min(start + size, task.samples))}
        return
    clusters = _shuffle_clusters(task, seed=seed)
    size = max(MIN_PART_SAMPLES, -(-sum(map(len, clusters)) // PARTS))
    part: list[str | int] = []
    for cluster in clusters:
        part += cluster
        if len(part) >= size:
            yield {"sample_id": part}
            part = []
    if part:
        yield {"sample_id": part}


def _shuffle_clusters(task: Task, *, seed: int) -> list[list[str | int]]:
    """Return the names of a task's samples, cluster by cluster, in the order of the seed."""
    clusters: dict[str, list[str | int]] = defaultdict(list)
    for number, sample in enumerate(task.dataset, start=1):
        name = number if sample.id is None else sample.id
        clusters[str((sample.metadata or {}).get("cluster", name))].append(name)
    order = list(clusters.values())
    random.Random(seed).shuffle(order)  # noqa: S311 - to be drawn again, not to be secret
    return order
