"""How many threads decode: measured at start, for counting cores misleads on shared machines."""

import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from fluvial.engine.protocol import Part

if TYPE_CHECKING:
    from fluvial.engine.decoder import Decoder

MEASURE_S = 1.0
_ROUNDS = 25
_ENOUGH = 1.05
_STEPS = 3

MakeStep = Callable[[int], Callable[[], None]]


@dataclass(frozen=True, kw_only=True)
class ThreadChoice:
    """The number of threads chosen, and the median time of a step for each that was measured."""

    threads: int
    timings_ms: dict[int, float]


def choose_threads(
    make_step: MakeStep,
    *,
    candidates: Iterable[int],
    budget_s: float = MEASURE_S,
    clock: Callable[[], float] = time.perf_counter,
) -> ThreadChoice:
    """Measure steps on each number of threads; take the fewest within 5% of the fastest.

    `make_step` prepares a step on a number of threads. Candidates take turns, so what else runs
    on the machine hits all of them alike. Ends after 25 rounds or the first one past `budget_s`;
    candidates whose preparation would begin past half of it are left out, the largest first.
    """
    begun_s = clock()
    steps: dict[int, Callable[[], None]] = {}
    for threads in sorted(set(candidates)):
        if not steps or clock() - begun_s < budget_s / 2:
            steps[threads] = make_step(threads)
            steps[threads]()
    if not steps:
        raise ValueError("no number of threads to choose from")
    timings_ms = _measure(steps, until_s=begun_s + budget_s, clock=clock)
    fastest_ms = min(timings_ms.values())
    chosen = min(n for n, took_ms in timings_ms.items() if took_ms <= fastest_ms * _ENOUGH)
    return ThreadChoice(threads=chosen, timings_ms=timings_ms)


def choose_for(decoder: "Decoder") -> ThreadChoice:
    """Choose the number of threads for a decoder on this machine, and set it.

    Measures steps of one token, which memory limits, so that more threads may not pay.
    """
    cache = decoder.new_cache()
    if not decoder.reserve(cache, decoder.page_tokens):
        raise ValueError("no room for one page of tokens")
    part = Part(cache, [0], None, [0])

    def make_step(threads: int) -> Callable[[], None]:
        def step() -> None:
            decoder.use_threads(threads)
            for _ in range(_STEPS):
                decoder.step([part])
                decoder.truncate(cache, 0)
                decoder.reserve(cache, decoder.page_tokens)

        return step

    choice = choose_threads(make_step, candidates=list_candidates(count_usable()))
    decoder.release(cache)
    decoder.use_threads(choice.threads)
    return choice


def list_candidates(usable: int) -> list[int]:
    """Return 1, 2, 4, … up to `usable`, which is among them."""
    powers = [2**n for n in range(usable.bit_length()) if 2**n < usable]
    return [*powers, usable]


def count_usable(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: affinity, without siblings, within the quota.

    `root` is where /proc and /sys are looked for.
    """
    cores = {_read_siblings(root, cpu) for cpu in _list_cpus()}
    return max(1, math.ceil(min(len(cores), _read_quota(root))))


def _measure(
    steps: dict[int, Callable[[], None]], *, until_s: float, clock: Callable[[], float]
) -> dict[int, float]:
    samples_ms: dict[int, list[float]] = {threads: [] for threads in steps}
    order = list(steps)
    for _ in range(_ROUNDS):
        for threads in order:
            begun_s = clock()
            steps[threads]()
            samples_ms[threads].append((clock() - begun_s) * 1000)
        order.reverse()
        if clock() >= until_s:
            break
    return {threads: median(taken) for threads, taken in samples_ms.items()}


def _list_cpus() -> Iterable[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _read_siblings(root: Path, cpu: int) -> str:
    """Return a name of the physical core of `cpu`: the same for all hardware threads on it."""
    path = root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    return _read(path) or str(cpu)


def _read_quota(root: Path) -> float:
    """Return how many cores' time the control groups allow; infinity where they set no limit."""
    group = root / "sys/fs/cgroup"
    folders = [group, group / "cpu"]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            base = group if controllers == "" else group / "cpu"
            place = base / path.lstrip("/")
            folders += [place, *(up for up in place.parents if up.is_relative_to(base))]
    return min(map(_read_limit, folders))


def _read_limit(folder: Path) -> float:
    both = _read(folder / "cpu.max").split() or [
        _read(folder / "cpu.cfs_quota_us"),
        _read(folder / "cpu.cfs_period_us"),
    ]
    if len(both) != 2 or not all(part.isdecimal() for part in both) or int(both[1]) == 0:
        return math.inf
    return int(both[0]) / int(both[1])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
