"""Read texts for sessions in the background: score each chunk, learn from it, save versions.

One thread takes the next chunk of a few sessions at a time, in turn (`turn.py`), and hands them to
the learner process together (`study.py`). A crash loses at most what was read since the last
version, and that is read again: its scores are dropped first.
"""

import logging
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from fluvial.adapt.desk import Desk, Job
from fluvial.adapt.history import History
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.study import MAX_LIVE_SESSIONS, Answer, OnEvent, Study
from fluvial.adapt.turn import Turns, list_oldest
from fluvial.errors import FluvialError, LearnerError, NotFoundError, StorageError
from fluvial.model.tokenizer import Tokenizer
from fluvial.store.store import Store
from fluvial.types import Reading, ReadingStatus, Session

log = logging.getLogger(__name__)

MAX_FAILURES = 3
PAUSE_S = 5.0


class Reader:
    """The reading thread of one served model; it calls `on_event(kind, session, record)`."""

    def __init__(
        self,
        *,
        store: Store,
        history: History,
        learner: LearnerProcess,
        tokenizer: Tokenizer,
        model: str,
        checkpoint: str,
        first_token: int,
        version_tokens: int,
        on_event: OnEvent,
    ) -> None:
        self._store, self._learner, self._tokenizer = store, learner, tokenizer
        self._model, self._checkpoint = model, checkpoint
        self._on_event = on_event
        self._desk = Desk()
        self._study = Study(
            store=store,
            history=history,
            learner=learner,
            tokenizer=tokenizer,
            first_token=first_token,
            version_tokens=version_tokens,
            on_event=on_event,
        )
        self._turns = Turns()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell the reader that something was queued."""
        self._desk.wake()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Stop within a chunk of each; what no version holds is read again after the next start."""
        self._desk.close()
        self._learner.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def cancel(self, reading: Reading) -> None:
        """Stop one reading; returns once the reader has let go of it and saved what it learned."""

        def drop() -> None:
            if reading.status in ("queued", "reading"):
                self._store.update_reading(reading, status="cancelled")

        self._desk.cancel(reading, drop=drop)

    def speed(self, reading_id: str) -> float | None:
        """Return tokens per second of a reading under way, None when it has none yet."""
        job = self._desk.jobs.get(reading_id)
        return job.speed if job is not None else None

    def live(self, reading: Reading) -> Reading:
        """Return the reading with its progress of this moment, not only what is saved."""
        job = self._desk.jobs.get(reading.id)
        return reading if job is None else job.show()

    def _run(self) -> None:
        while not self._desk.closing:
            jobs = self._choose()
            if jobs:
                self._work(jobs)
            else:
                self._desk.pause(timeout_s=PAUSE_S)

    def _choose(self) -> list[Job]:
        """Pick readings of the next few sessions, in turn; open jobs that were queued meanwhile."""
        try:
            queued = self._store.unfinished_readings(model=self._model)
        except FluvialError:
            log.exception("the reader can't list what to read")
            return []
        held = self._study.held
        waiting = [(session, reading) for session, reading in queued if reading.id not in held]
        self._let_go(waiting)
        chosen = self._turns.choose(
            list_oldest(waiting, holding=self._study.holding),
            amid=self._study.amid,
            most=MAX_LIVE_SESSIONS,
            is_cancelled=self._desk.is_cancelled,
            has_failed=self._desk.has_failed,
        )
        jobs = [self._desk.jobs.get(each[1].id) or self._open(*each) for each in chosen]
        return [job for job in jobs if job is not None]

    def _let_go(self, waiting: list[tuple[Session, Reading]]) -> None:
        """Give up what can't go on: its session is deleted, or the message that it waits for.

        What was read to the end is then read again, and saved without that message.
        """
        sessions = {session.id for session, _ in waiting}
        for session_id in self._study.amid - sessions:
            self._study.forget(session_id)
        readings = {reading.id for _, reading in waiting}
        for job in [*self._desk.jobs.values()]:
            if job.reading.id not in readings:
                self._desk.release(job)

    def _open(self, session: Session, reading: Reading) -> Job | None:
        self._desk.begin_opening(reading)
        job: Job | None = None
        try:
            job = self._load(session, reading)
        except FluvialError as error:
            self._fail(session, reading, error)
        self._desk.end_opening(job)
        if job is not None:
            self._tell_reading(job)
        return job

    def _load(self, session: Session, reading: Reading) -> Job | None:
        """Make a job of a queued reading; None where it was cancelled a moment ago."""
        if self._store.reading(session, reading.id).status == "cancelled":
            return None
        if session.checkpoint != self._checkpoint:
            raise NotFoundError("the session's model is another build of the one being served")
        ids = self._tokenizer.encode(self._store.reading_text(reading))
        lengths = [len(self._tokenizer.token_bytes(token)) for token in ids]
        self._store.truncate_scores(reading, start=reading.tokens_read)
        reading = self._store.update_reading(reading, status="reading", tokens_total=len(ids))
        return Job(session, reading, ids, lengths, reading.tokens_read)

    def _work(self, jobs: Sequence[Job]) -> None:
        """Read one chunk of each job, all in one request; or end it."""
        ready = [job for job in jobs if self._make_ready(job)]
        answers: list[Answer] = []
        with self._handling(*ready):
            answers = self._study.read_chunks(ready)
        for answer in answers:
            with self._handling(answer.job):
                self._study.take(answer)
                self._tell_reading(answer.job)

    def _make_ready(self, job: Job) -> bool:
        """Return whether a chunk of the job can be read; if not, do what is to be done instead."""
        with self._handling(job):
            job.session = self._store.session(job.session.id, owner=job.session.owner)
            if self._study.has_lost(job):
                self._rewind(job)
            elif job.cancelled:
                self._end(job, "cancelled")
            elif job.position >= len(job.ids):
                self._end(job, "done")
            else:
                self._study.prepare(job)
                return True
        return False

    @contextmanager
    def _handling(self, *jobs: Job) -> Generator[None]:
        """Let what goes wrong be the end of these jobs, or a new beginning, and of nothing else."""
        try:
            yield
        except Exception as error:  # a defect must not end the thread that everyone's reading needs
            for job in jobs:
                self._handle(job, error)

    def _handle(self, job: Job, error: Exception) -> None:
        if isinstance(error, LearnerError):
            self._start_over(job, error)
            return
        if isinstance(error, NotFoundError):
            self._study.forget(job.session.id)  # it was deleted
        else:
            if not isinstance(error, FluvialError):
                log.error("reading %s failed", job.reading.id, exc_info=error)
            self._fail(job.session, job.reading, error)
        self._desk.release(job)

    def _end(self, job: Job, status: ReadingStatus) -> None:
        self._study.end(job, status, has_more=lambda: self._has_more(job))
        self._tell_reading(job)
        self._desk.release(job)

    def _has_more(self, job: Job) -> bool:
        """Tell whether the session's next message can share this one's version."""
        if job.reading.kind != "message":
            return False
        read = {job.reading.id, *self._study.held}
        return any(
            session.id == job.session.id and reading.id not in read
            for session, reading in self._store.unfinished_readings(model=self._model)
        )

    def _start_over(self, job: Job, error: LearnerError) -> None:
        """Go back to the last version after the learner failed; give up after a few in a row."""
        if self._desk.closing:
            self._desk.release(job)
            return
        log.warning("reading %s: %s", job.reading.id, error)
        job.failures += 1
        try:
            self._rewind(job)
        except FluvialError as fault:
            self._fail(job.session, job.reading, fault)
            self._desk.release(job)
            return
        if job.failures >= MAX_FAILURES:
            self._fail(job.session, job.reading, error)
            self._desk.release(job)

    def _rewind(self, job: Job) -> None:
        """Go back to where the session was saved: what was read since is read again."""
        self._study.forget(job.session.id)
        job.position = job.reading.tokens_read
        self._store.truncate_scores(job.reading, start=job.position)

    def _fail(self, session: Session, reading: Reading, error: Exception) -> None:
        message = error.message if isinstance(error, FluvialError) else f"unexpected: {error!r}"
        reading = replace(reading, status="failed", error=message)
        try:
            reading = self._store.update_reading(reading, status="failed", error=message)
        except (StorageError, NotFoundError):
            log.warning("the failure of reading %s could not be stored: %s", reading.id, message)
            self._desk.pause(timeout_s=PAUSE_S)
        self._study.forget(session.id)
        self._on_event("reading", session, reading)

    def _tell_reading(self, job: Job) -> None:
        self._on_event("reading", job.session, job.show())
