"""A process of ours at the other end of a pair of pipes: what must not run in the server's own.

A library that is large or may crash (PyTorch) lives there. Frames go over its standard input and
output, one reply for each request; it ends when its parent closes the pipe or dies.
"""

import contextlib
import os
import subprocess
import sys
import weakref
from collections.abc import Mapping
from typing import Any, BinaryIO, cast

from fluvial.frame import ClosedError, read_frame, write_frame

CLOSE_TIMEOUT_S = 2.0
Reply = tuple[dict[str, Any], bytes]


class Child:
    """One running child. Not thread-safe, but for `end`."""

    def __init__(
        self,
        module: str,
        *,
        settings: dict[str, Any],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python -m MODULE` and send it `settings` as its first frame.

        `environment` is added to this process's own. Raises ClosedError when it ended at once.
        """
        self._process = subprocess.Popen(  # noqa: S603  our own program, no shell
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A group of its own, so that what is typed at the terminal is for the server alone. Not
            # a session: Linux first shares its cores out by session, and a low priority counts
            # only inside one.
            process_group=0 if os.name == "posix" else None,
            # Threads that wait must sleep: spinning ones take the cores that answers need.
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})},
        )
        # A child that nobody holds any more must not live on.
        weakref.finalize(self, _end, self._process)
        try:
            self.send(settings)
        except ClosedError:
            self.end()
            self.release()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, header: dict[str, Any], body: bytes = b"") -> None:
        """Write one request. Raises ClosedError when the child has gone."""
        write_frame(cast(BinaryIO, self._process.stdin), header, body)

    def receive(self) -> Reply:
        """Read one reply. Raises ClosedError when the child has gone, ValueError for rubbish."""
        return read_frame(cast(BinaryIO, self._process.stdout))

    def ask(self, header: dict[str, Any], body: bytes = b"") -> Reply:
        """Send a request and wait for its reply."""
        self.send(header, body)
        return self.receive()

    def end(self) -> None:
        """Ask the process to end, then make it. Safe at any time: a reader gets ClosedError."""
        _end(self._process)

    def release(self) -> None:
        """Close the pipes of a child that has ended."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
