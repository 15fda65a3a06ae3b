"""The server's side of the learner process: starts it, asks it, starts it again when it dies.

The server never loads torch, and a crash or a leak of the learner can't take it down: a request
under way raises LearnerError, what was saved stays, and the next request finds a new process.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fluvial.adapt.frame import ClosedError, read_frame, write_frame
from fluvial.adapt.rule import ChunkResult, Rule
from fluvial.errors import LearnerError
from fluvial.model.adapter import Tensors

log = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "off"]
CLOSE_TIMEOUT_S = 2.0


class LearnerProcess:
    """One learner in a process of its own. Thread-safe; one request at a time."""

    def __init__(self, path: Path, *, sha256: str, rule: Rule, threads: int = 0) -> None:
        self.rule = rule
        self.state: State = "off"
        self.generation = 0
        """Counts processes: live states are gone whenever it changes."""
        self._settings = {
            "path": str(path),
            "sha256": sha256,
            "rule": asdict(rule),
            "threads": threads,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def start(self) -> None:
        """Begin to start the process; return at once. The first request waits until it is ready."""
        threading.Thread(target=self._begin, name="learner start", daemon=True).start()

    def load(self, session: str, tensors: Tensors | None) -> None:
        """Make `tensors` (None: the base) the session's live state."""
        body = safetensors.numpy.save(dict(tensors)) if tensors is not None else b""
        self._ask({"do": "load", "session": session}, body)

    def read(
        self, session: str, *, context: Sequence[int], chunk: Sequence[int], learn: bool
    ) -> ChunkResult:
        """Score a chunk and perhaps learn from it (`Learner.read`). The session must be loaded."""
        header = {"do": "read", "session": session, "context": [*context], "chunk": [*chunk]}
        reply, _ = self._ask({**header, "learn": learn})
        return ChunkResult(**reply)

    def export(self, session: str) -> dict[str, NDArray[np.float32]]:
        """Copy out a session's live adapter."""
        return safetensors.numpy.load(self._ask({"do": "export", "session": session})[1])

    def drop(self, session: str) -> None:
        """Forget a session's live state."""
        self._ask({"do": "drop", "session": session})

    def close(self) -> None:
        """End the process. Safe at any time: a request that is under way raises LearnerError."""
        self._closed = True
        self.state = "off"
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with self._lock:
            self._release(process)

    def _begin(self) -> None:
        with self._lock:
            try:
                self._spawn()
                self._greet()
            except (ClosedError, LearnerError, ValueError):
                self._lose()  # the first request tries again, and tells its caller

    def _ask(self, header: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], bytes]:
        with self._lock:
            if self._process is None:
                self._spawn()
            try:
                reply, data = self._exchange(header, body)
            except (ClosedError, ValueError) as error:
                self._lose()
                raise LearnerError(
                    "the learner process ended; reading goes on from the last version"
                ) from error
        if "error" in reply:
            raise LearnerError(f"the learner could not {header['do']}: {reply['error']}")
        return reply, data

    def _exchange(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        process = cast("subprocess.Popen[bytes]", self._process)
        self._greet()
        write_frame(cast(BinaryIO, process.stdin), header, body)
        return read_frame(cast(BinaryIO, process.stdout))

    def _greet(self) -> None:
        """Wait until the process says that it is ready."""
        process = cast("subprocess.Popen[bytes]", self._process)
        if self.state != "ready":
            reply, _ = read_frame(cast(BinaryIO, process.stdout))
            log.info("the learner is ready, on %s threads: %s", reply["threads"], reply["timings"])
            self.state = "ready"

    def _spawn(self) -> None:
        if self._closed:
            raise LearnerError("the learner is closed")
        if self._process is not None:
            return
        self.state = "restarting" if self.generation else "starting"
        self.generation += 1
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fluvial.adapt.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            # Threads that wait must sleep: spinning ones take the cores that answers need.
            env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        )
        write_frame(cast(BinaryIO, self._process.stdin), self._settings)

    def _lose(self) -> None:
        process = self._process
        if process is not None:
            process.kill()
            process.wait()
            self._release(process)
        if not self._closed:
            self.state = "restarting"

    def _release(self, process: subprocess.Popen[bytes]) -> None:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self._process = None
