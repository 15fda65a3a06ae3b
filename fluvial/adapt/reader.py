"""Read texts for sessions in the background: score each chunk, learn from it, save versions.

One thread takes a chunk at a time from the sessions in turn and hands it to the learner process
(`study.py`). A crash loses at most what was read since the last version, and that is read again:
its scores are dropped first.
"""

import logging
import threading
from collections import OrderedDict
from dataclasses import replace

from fluvial.adapt.desk import Desk, Job
from fluvial.adapt.history import History
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.study import OnEvent, Study
from fluvial.errors import FluvialError, LearnerError, NotFoundError, StorageError
from fluvial.model.tokenizer import Tokenizer
from fluvial.store.store import Store
from fluvial.types import Reading, ReadingStatus, Session

log = logging.getLogger(__name__)

MAX_FAILURES = 3
POOL_BYTES = 2048
"""Messages wait until a session has this much of them: a few words only cost a version."""
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
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell the reader that something was queued."""
        self._desk.wake()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Stop within one chunk; what no version holds is read again after the next start."""
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
            job = self._choose()
            if job is None:
                self._desk.pause(timeout_s=PAUSE_S)
            else:
                self._work(job)

    def _choose(self) -> Job | None:
        """Pick the next session's oldest reading, in turn; open jobs that were queued meanwhile."""
        try:
            queued = self._store.unfinished_readings(model=self._model)
        except FluvialError:
            log.exception("the reader can't list what to read")
            return None
        held = self._study.held
        waiting = [(session, reading) for session, reading in queued if reading.id not in held]
        self._let_go(waiting)
        oldest: OrderedDict[str, tuple[Session, Reading]] = OrderedDict()
        for session, reading in _leave_small(waiting, holding=self._study.holding):
            oldest.setdefault(session.id, (session, reading))
        first = self._study.amid if self._study.full else oldest.keys()
        turns = [
            (session, reading)
            for session, reading in oldest.values()
            if session.id in first or self._desk.is_cancelled(reading)
        ]
        if not turns:
            return None
        self._turn += 1
        session, reading = turns[self._turn % len(turns)]
        return self._desk.jobs.get(reading.id) or self._open(session, reading)

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

    def _work(self, job: Job) -> None:
        """Read one chunk of a job, or end it."""
        try:
            job.session = self._store.session(job.session.id, owner=job.session.owner)
            if self._study.has_lost(job):
                self._rewind(job)
            elif job.cancelled:
                self._end(job, "cancelled")
            elif job.position >= len(job.ids):
                self._end(job, "done")
            else:
                self._study.read_chunk(job)
                self._tell_reading(job)
        except LearnerError as error:
            self._start_over(job, error)
        except NotFoundError:
            self._study.forget(job.session.id)  # it was deleted
            self._desk.release(job)
        except FluvialError as error:
            self._fail(job.session, job.reading, error)
            self._desk.release(job)
        except Exception as error:  # a defect must not end the thread that everyone's reading needs
            log.exception("reading %s failed", job.reading.id)
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


def _leave_small(
    queued: list[tuple[Session, Reading]], *, holding: set[str]
) -> list[tuple[Session, Reading]]:
    """Leave out the messages of sessions that do not yet have enough of them to learn from.

    Sessions in `holding` have begun on such a pool, and go on to its end.
    """
    waiting: dict[str, int] = dict.fromkeys(holding, POOL_BYTES)
    for session, reading in queued:
        size = reading.bytes if reading.kind == "message" else POOL_BYTES
        waiting[session.id] = waiting.get(session.id, 0) + size
    return [(session, reading) for session, reading in queued if waiting[session.id] >= POOL_BYTES]
