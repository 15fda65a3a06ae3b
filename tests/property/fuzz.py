"""Drive one reader with damaged files, in a process with limited memory; print a line of JSON.

    python -m tests.property.fuzz gguf --inputs 2000 --seed 1
    python -m tests.property.fuzz gguf --guided --seconds 600      (needs `pip install atheris`)

The guided run keeps inputs that reach new code and builds on them. A finding is printed with the
file it was written to, and the exit code is 1.
"""

import argparse
import base64
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the guided run instruments what it imports, so nothing may be there before
    from fluvial.errors import FluvialError

MEMORY_BYTES = 3 * 2**30
# What a reader may hold at once, beside a multiple of the input: tables of the libraries.
PEAK_BYTES, PEAK_RATIO = 48 * 2**20, 64


@contextmanager
def enter_folder() -> Iterator[Path]:
    """Yield an empty folder, in memory where the system has such a place."""
    shared = Path("/dev/shm")  # noqa: S108
    folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def check_input(name: str, data: bytes) -> "list[FluvialError]":
    """Run one input and return the errors of ours.

    Raises whatever else the reader let out, or AssertionError for much memory.
    """
    from tests.property.fuzz_target import TARGETS

    with enter_folder() as folder:
        tracemalloc.start()
        try:
            errors = TARGETS[name].run(data, folder)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    allowed = PEAK_BYTES + PEAK_RATIO * len(data)
    assert peak_bytes <= allowed, f"{peak_bytes:,} bytes were held for {len(data):,}"
    return errors


def limit_memory() -> None:
    """Let an allocation beyond the limit fail here, instead of taking the machine with it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def run_random(name: str, *, inputs: int, seed: int) -> dict[str, Any]:
    """Run damaged seeds, some damaged twice; returns counts and the first findings."""
    from tests.property.fuzz_target import TARGETS

    target, rng = TARGETS[name], random.Random(seed)
    findings: list[dict[str, str]] = []
    for _ in range(inputs):
        data = target.mutate(rng.choice(target.seeds()), rng)
        try:
            check_input(name, data)
        except BaseException as error:
            findings.append(describe(error, data))
            if isinstance(error, KeyboardInterrupt) or len(findings) == 5:
                break
    return {"target": name, "inputs": inputs, "seed": seed, "findings": findings}


def describe(error: BaseException, data: bytes) -> dict[str, str]:
    """Return what happened, where, and the input (compressed)."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "error": f"{type(error).__name__}: {str(error)[:200]}",
        "where": f"{frame.filename}:{frame.lineno}",
        "input": base64.b85encode(zlib.compress(data)).decode()[:20_000],
    }


def report(values: dict[str, Any]) -> None:
    """Write one line of JSON to standard output."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def run_guided(name: str, *, seconds: int, corpus: Path) -> None:
    """Let libFuzzer choose what to build on; ends the process."""
    import atheris

    with atheris.instrument_imports(include=["fluvial"]):
        from tests.property.fuzz_target import TARGETS
    target = TARGETS[name]
    corpus.mkdir(parents=True, exist_ok=True)
    for index, data in enumerate(target.seeds()):
        (corpus / f"seed-{index}").write_bytes(data)
    seen = {"inputs": 0, "slowest_s": 0.0}

    def change(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.1:
            return atheris.Mutate(data, max_size)
        return target.mutate(data, rng)[:max_size]

    def run(data: bytes) -> None:
        start = time.perf_counter()
        with enter_folder() as folder:
            target.run(data, folder)
        seen["inputs"] += 1
        seen["slowest_s"] = max(seen["slowest_s"], time.perf_counter() - start)
        if seen["inputs"] % 1000 == 0:
            report(seen)

    options = [f"-max_total_time={seconds}", "-max_len=65536", "-timeout=60", "-rss_limit_mb=3000"]
    atheris.Setup([sys.argv[0], str(corpus), *options], run, custom_mutator=change)
    atheris.Fuzz()


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "fluvial-fuzz")
    given = parser.parse_args()
    warnings.simplefilter("error")
    if given.guided:
        run_guided(given.target, seconds=given.seconds, corpus=given.corpus / given.target)
        return 0
    limit_memory()
    found = run_random(given.target, inputs=given.inputs, seed=given.seed)
    report(found)
    return 1 if found["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
