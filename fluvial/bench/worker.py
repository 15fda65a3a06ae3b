"""One side's own process: reads requests from standard input, answers on standard output."""

import contextlib
import ctypes
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from fluvial.frame import ClosedError, read_frame, write_frame

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main() -> None:
    """Serve one parent until it closes the pipe."""
    _die_with_parent()
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not break the frames
    with contextlib.suppress(ClosedError, KeyboardInterrupt):
        _serve(sys.argv[1], requests, replies)
    # Servers written in C++ have threads that outlive the interpreter's end; nothing is to be kept.
    replies.flush()
    os._exit(0)


def _die_with_parent() -> None:
    """Ask Linux for a signal when the parent dies: a stopped process sees no pipe being closed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _serve(name: str, requests: BinaryIO, replies: BinaryIO) -> None:
    runner: object = None
    while True:
        request, _ = read_frame(requests)
        do = request.pop("do")
        reply: dict[str, Any]
        try:
            if do == "load":
                kind = _find(name)
                begun_s = time.perf_counter()
                runner = kind(**request)
                reply = {"load_s": time.perf_counter() - begun_s}
            elif do == "measure_memory":
                reply = measure_memory()
            else:
                reply = {"value": getattr(runner, do)(**request)}
        except Exception as error:  # whatever a side raises is told to the parent, and it goes on
            reply = {"error": f"{type(error).__name__}: {error}"}
        write_frame(replies, reply)


def _find(name: str) -> Callable[..., object]:
    """Return what makes a side, with its libraries imported: that is no part of loading."""
    if name == "peer":
        from fluvial.bench.peer import Peer

        importlib.import_module("xllamacpp")
        return Peer
    if name == "reference":
        from fluvial.bench.reference import Reference

        return Reference
    if name == "reading":
        from fluvial.bench.roofline import Reading

        return Reading
    from fluvial.bench.ours import Ours

    return Ours


def measure_memory() -> dict[str, float]:
    """Return this process's resident memory now and at its highest, in MB of 10^6 bytes."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        now_kb, peak_kb = (int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    except (OSError, KeyError):
        import resource

        peak_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now_kb = peak_kb
    return {"rss_mb": now_kb * 1024 / 1e6, "peak_mb": peak_kb * 1024 / 1e6}


if __name__ == "__main__":
    main()
