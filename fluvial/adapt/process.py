"""The server's side of the learner process: starts it, asks it, starts it again when it dies.

The server never loads torch, and a crash or a leak of the learner can't take it down: a request
under way raises LearnerError, what was saved stays, and the next request finds a new process.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from fluvial.adapt.bounding import Settlement
from fluvial.adapt.rule import ChunkResult, Place, Read, Rule
from fluvial.child import Child, Reply
from fluvial.errors import LearnerError
from fluvial.frame import ClosedError
from fluvial.model.adapter import Tensors
from fluvial.note import read as read_note

log = logging.getLogger(__name__)

State = Literal["starting", "ready", "restarting", "off"]


class LearnerProcess:
    """One learner in a process of its own. Thread-safe; one request at a time."""

    def __init__(
        self,
        path: Path,
        *,
        sha256: str,
        rule: Rule,
        threads: int = 0,
        graph_dir: Path | None = None,
        positions: int = 4096,
        drift_budget: float | None = None,
        bases_dir: Path | None = None,
    ) -> None:
        """Learn as `Learner` does; `threads` 0 lets it choose.

        New sessions stand on the basis in `bases_dir`, which is made if need be; None: on none.
        """
        self.rule = rule
        self.state: State = "off"
        self.generation = 0
        """Counts processes, from the death of one before: live states are gone when it changes."""
        self._settings = {
            "path": str(path),
            "sha256": sha256,
            "rule": asdict(rule),
            "threads": threads,
            "graph_dir": None if graph_dir is None else str(graph_dir),
            "positions": positions,
            "drift_budget": drift_budget,
            "bases_dir": None if bases_dir is None else str(bases_dir),
        }
        self._process: Child | None = None
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
        self,
        session: str,
        *,
        context: Sequence[int],
        chunk: Sequence[int],
        learn: bool,
        place: Place | None = None,
    ) -> ChunkResult:
        """Score a chunk and perhaps learn from it (`Learner.read`). The session must be loaded."""
        read = Read(session=session, context=context, chunk=chunk, learn=learn, place=place)
        return self.read_all([read])[0]

    def read_all(self, reads: Sequence[Read]) -> list[ChunkResult]:
        """Read a chunk of each of several sessions (`Learner.read_all`); all fail together."""
        reply, _ = self._ask({"do": "read", "reads": [asdict(read) for read in reads]})
        return [ChunkResult(**each) for each in reply["results"]]

    def settle(self, session: str) -> Settlement:
        """Make a session's live state fit to be a version (`Learner.settle`)."""
        reply, _ = self._ask({"do": "settle", "session": session})
        notes = tuple(map(read_note, reply.pop("notes")))
        return Settlement(**reply, notes=notes)

    def score(
        self, context: Sequence[int], chunk: Sequence[int], *, tensors: Tensors | None = None
    ) -> list[float]:
        """Return the loss on each token of `chunk` under an adapter (`Learner.score`)."""
        body = safetensors.numpy.save(dict(tensors)) if tensors is not None else b""
        header = {"do": "score", "context": [*context], "chunk": [*chunk]}
        return self._ask(header, body)[0]["nats"]

    def measure_drift(self, tensors: Tensors) -> float:
        """Return the divergence of an adapter from the base on the probe, nats a token."""
        return self._ask({"do": "drift"}, safetensors.numpy.save(dict(tensors)))[0]["drift"]

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
        process.end()
        with self._lock:
            process.release()
            self._process = None

    def _begin(self) -> None:
        with self._lock:
            try:
                self._greet(self._spawn())
            except (ClosedError, LearnerError, ValueError):
                self._lose()  # the first request tries again, and tells its caller

    def _ask(self, header: dict[str, Any], body: bytes = b"") -> Reply:
        with self._lock:
            try:
                process = self._spawn()
                self._greet(process)
                reply, data = process.ask(header, body)
            except (ClosedError, ValueError) as error:
                self._lose()
                raise LearnerError(
                    "the learner process ended; reading goes on from the last version"
                ) from error
        if "error" in reply:
            raise LearnerError(f"the learner could not {header['do']}: {reply['error']}")
        return reply, data

    def _greet(self, process: Child) -> None:
        """Wait until the process says that it is ready."""
        if self.state != "ready":
            reply, _ = process.receive()
            log.info("the learner is ready, on %s threads: %s", reply["threads"], reply["timings"])
            self.state = "ready"

    def _spawn(self) -> Child:
        if self._closed:
            raise LearnerError("the learner is closed")
        if self._process is None:
            self.state = "restarting" if self.generation else "starting"
            self.generation = max(1, self.generation)
            self._process = Child("fluvial.adapt.worker", settings=self._settings)
            if self._closed:  # meanwhile, when `close` saw no process to end
                self._lose()
                raise LearnerError("the learner is closed")
        return self._process

    def _lose(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process.release()
            self._process = None
            self.generation += 1
        if not self._closed:
            self.state = "restarting"
