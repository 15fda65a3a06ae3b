"""The readings under way: what the reading thread shares with those who queue, cancel and watch."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from fluvial.types import Reading, Session


@dataclass(eq=False)
class Job:
    """One reading under way. `position`: the next token; `reading.tokens_read`: what is saved."""

    session: Session
    reading: Reading
    ids: list[int]
    lengths: list[int]
    position: int
    speed: float | None = None
    failures: int = 0
    cancelled: bool = False

    @property
    def unsaved_tokens(self) -> int:
        return self.position - self.reading.tokens_read

    def show(self) -> Reading:
        """Return the reading with its progress of this moment, not only what is saved."""
        return replace(self.reading, tokens_read=self.position)

    def note_speed(self, tokens_per_s: float) -> None:
        self.speed = tokens_per_s if self.speed is None else 0.7 * self.speed + 0.3 * tokens_per_s


class Desk:
    """The jobs, and the one reading that is just being opened, under one lock."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.opening: str | None = None
        self.cancelled = False
        """Whether the reading being opened was cancelled meanwhile."""
        self.closing = False
        self._changed = threading.Condition()

    def wake(self) -> None:
        """Wake the thread that waits for work."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Let everyone who waits go on; no work is to be begun any more."""
        with self._changed:
            self.closing = True
            self._changed.notify_all()

    def pause(self, *, timeout_s: float) -> None:
        """Wait until something changes, but not while closing."""
        with self._changed:
            if not self.closing:
                self._changed.wait(timeout=timeout_s)

    def begin_opening(self, reading: Reading) -> None:
        """Say that this reading is being opened: a cancel of it must wait."""
        with self._changed:
            self.opening, self.cancelled = reading.id, False

    def end_opening(self, job: Job | None) -> None:
        """Take up what was opened, None if nothing came of it."""
        with self._changed:
            self.opening = None
            if job is not None:
                job.cancelled = self.cancelled
                self.jobs[job.reading.id] = job
            self._changed.notify_all()

    def cancel(self, reading: Reading, *, drop: Callable[[], None]) -> None:
        """Have one reading stopped, and wait until it is let go of; `drop` it if it only waits."""
        with self._changed:
            if self.opening == reading.id:
                self.cancelled = True
            elif reading.id in self.jobs:
                self.jobs[reading.id].cancelled = True
            else:
                drop()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self.closing or not self._has(reading))

    def is_cancelled(self, reading: Reading) -> bool:
        """Whether a job is to be stopped."""
        job = self.jobs.get(reading.id)
        return job is not None and job.cancelled

    def has_failed(self, reading: Reading) -> bool:
        """Whether a job has failed at the chunk where it is."""
        job = self.jobs.get(reading.id)
        return job is not None and job.failures > 0

    def release(self, job: Job) -> None:
        """Let go of a job."""
        with self._changed:
            self.jobs.pop(job.reading.id, None)
            self._changed.notify_all()

    def _has(self, reading: Reading) -> bool:
        return reading.id in self.jobs or reading.id == self.opening
