"""One side of a benchmark in a process of its own, asked over a pipe, asleep while not asked.

Two engines in one process would share thread pools and memory figures. Between requests the
process is stopped by a signal (where the system has one), so that no spinning thread of the idle
side takes a core from the other.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any, BinaryIO, Protocol, Self, cast

from fluvial.errors import EngineError
from fluvial.frame import ClosedError, read_frame, write_frame

CLOSE_TIMEOUT_S = 10.0
_TAIL_BYTES = 2000


class Side(Protocol):
    """What answers the requests of a benchmark: a process, or a double of one.

    `loaded` is the reply to its loading.
    """

    loaded: dict[str, Any]

    def ask(self, do: str, **values: Any) -> dict[str, Any]: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *details: object) -> None: ...


class SideProcess:
    """A child that runs `fluvial.bench.worker` with one side's name. One request at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.loaded: dict[str, Any] = {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  closed with the process
        # A group of its own in this session: when this process dies, the group is orphaned, and
        # its stopped members are woken and ended; on Linux the worker asks for more than that.
        self._process = subprocess.Popen(  # noqa: S603  our own program, no shell
            [sys.executable, "-m", "fluvial.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            process_group=0 if os.name == "posix" else None,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Send one request and wait for its reply.

        Raises EngineError when the side failed or died, with the end of what it printed.
        """
        self._signal("SIGCONT")
        try:
            write_frame(cast(BinaryIO, self._process.stdin), {"do": do, **values})
            reply, _ = read_frame(cast(BinaryIO, self._process.stdout))
        except (ClosedError, ValueError):
            raise EngineError(f"{self.name} died while asked to {do}: {self._read_log()}") from None
        self._signal("SIGSTOP")
        if "error" in reply:
            raise EngineError(f"{self.name} could not {do}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._signal("SIGCONT")
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def _read_log(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _TAIL_BYTES))
        return self._log.read().decode(errors="replace").strip() or "it printed nothing"


def open_side(name: str, settings: Mapping[str, Any]) -> SideProcess:
    """Start a side and load it; `loaded` then tells how long that took."""
    side = SideProcess(name)
    try:
        side.loaded = side.ask("load", **settings)
    except BaseException:
        side.close()
        raise
    return side
