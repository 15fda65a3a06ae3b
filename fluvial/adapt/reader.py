"""Read texts for sessions in the background: score each chunk, learn from it, save versions.

One thread takes a chunk at a time from the sessions in turn and hands it to the learner process.
What is learned becomes a version every `version_tokens`, and when a session has nothing more to
read. A crash loses at most what was read since the last version, and that is read again: its scores
are dropped first.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fluvial.adapt.history import History
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.rule import ChunkResult
from fluvial.adapt.unsaved import Unsaved
from fluvial.errors import FluvialError, LearnerError, NotFoundError, StorageError
from fluvial.model.tokenizer import Tokenizer
from fluvial.store.store import Store
from fluvial.types import ChunkScore, Reading, ReadingStatus, Session

log = logging.getLogger(__name__)

OnEvent = Callable[[str, Session, object], None]
MAX_LIVE_SESSIONS = 4
MAX_FAILURES = 3
POOL_BYTES = 2048
"""Messages wait until a session has this much of them: a few words only cost a version."""


@dataclass(eq=False)
class _Job:
    """One reading under way. `position`: the next token; `since_*`: what no version holds yet."""

    session: Session
    reading: Reading
    ids: list[int]
    lengths: list[int]
    position: int
    speed: float | None = None
    failures: int = 0
    cancelled: bool = False


@dataclass(eq=False)
class _Live:
    """The learner's live state of one session: the version it grew from, what it read since."""

    version: int
    generation: int
    unsaved: Unsaved = field(default_factory=Unsaved)
    held: list[Reading] = field(default_factory=list)
    """Messages read to the end whose learning no version holds yet; done once one does."""


@dataclass(eq=False)
class _Desk:
    """What the reader's thread shares with callers, under one lock."""

    jobs: dict[str, _Job] = field(default_factory=dict)
    opening: str | None = None
    cancelled: bool = False
    """Whether the reading being opened was cancelled meanwhile."""
    wake: threading.Condition = field(default_factory=threading.Condition)
    closing: bool = False


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
        self._store, self._history, self._learner = store, history, learner
        self._tokenizer = tokenizer
        self._model, self._checkpoint = model, checkpoint
        self._first_token = first_token
        self._version_tokens = version_tokens
        self._on_event = on_event
        self._desk = _Desk()
        self._live: OrderedDict[str, _Live] = OrderedDict()
        self._turn = 0
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Tell the reader that something was queued."""
        with self._desk.wake:
            self._desk.wake.notify_all()

    def close(self, *, timeout_s: float = 5.0) -> None:
        """Stop within one chunk; what no version holds is read again after the next start."""
        with self._desk.wake:
            self._desk.closing = True
            self._desk.wake.notify_all()
        self._learner.close()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def cancel(self, reading: Reading) -> None:
        """Stop one reading; returns once the reader has let go of it and saved what it learned."""
        with self._desk.wake:
            if self._desk.opening == reading.id:
                self._desk.cancelled = True
            elif reading.id in self._desk.jobs:
                self._desk.jobs[reading.id].cancelled = True
            elif reading.status in ("queued", "reading"):
                self._store.update_reading(reading, status="cancelled")
            self._desk.wake.notify_all()
            self._desk.wake.wait_for(
                lambda: (
                    self._desk.closing
                    or (reading.id not in self._desk.jobs and reading.id != self._desk.opening)
                )
            )

    def speed(self, reading_id: str) -> float | None:
        """Return tokens per second of a reading under way, None when it has none yet."""
        job = self._desk.jobs.get(reading_id)
        return job.speed if job is not None else None

    def live(self, reading: Reading) -> Reading:
        """Return the reading with its progress of this moment, not only what is saved."""
        job = self._desk.jobs.get(reading.id)
        return reading if job is None else _show(job)

    def _run(self) -> None:
        while True:
            with self._desk.wake:
                if self._desk.closing:
                    return
            job = self._choose()
            if job is None:
                with self._desk.wake:
                    if not self._desk.closing:
                        self._desk.wake.wait(timeout=5.0)
                continue
            self._work(job)

    def _choose(self) -> _Job | None:
        """Pick the next session's oldest reading, in turn; open jobs that were queued meanwhile."""
        try:
            queued = self._store.unfinished_readings(model=self._model)
        except FluvialError:
            log.exception("the reader can't list what to read")
            return None
        oldest: OrderedDict[str, tuple[Session, Reading]] = OrderedDict()
        held = {reading.id for live in self._live.values() for reading in live.held}
        waiting = [(session, reading) for session, reading in queued if reading.id not in held]
        for session, reading in _leave_small(waiting, holding={*self._holding()}):
            oldest.setdefault(session.id, (session, reading))
        if not oldest:
            return None
        self._turn += 1
        session, reading = list(oldest.values())[self._turn % len(oldest)]
        return self._desk.jobs.get(reading.id) or self._open(session, reading)

    def _open(self, session: Session, reading: Reading) -> _Job | None:
        with self._desk.wake:
            self._desk.opening, self._desk.cancelled = reading.id, False
        job: _Job | None = None
        try:
            job = self._load(session, reading)
        except FluvialError as error:
            self._fail(session, reading, error)
        with self._desk.wake:
            self._desk.opening = None
            if job is not None:
                job.cancelled = self._desk.cancelled
                self._desk.jobs[reading.id] = job
            self._desk.wake.notify_all()
        if job is not None:
            self._tell_reading(job)
        return job

    def _load(self, session: Session, reading: Reading) -> _Job | None:
        """Make a job of a queued reading; None where it was cancelled a moment ago."""
        if self._store.reading(session, reading.id).status == "cancelled":
            return None
        if session.checkpoint != self._checkpoint:
            raise NotFoundError("the session's model is another build of the one being served")
        ids = self._tokenizer.encode(self._store.reading_text(reading))
        lengths = [len(self._tokenizer.token_bytes(token)) for token in ids]
        self._store.truncate_scores(reading, start=reading.tokens_read)
        reading = self._store.update_reading(reading, status="reading", tokens_total=len(ids))
        return _Job(session, reading, ids, lengths, reading.tokens_read)

    def _work(self, job: _Job) -> None:
        """Read one chunk of a job, or end it."""
        try:
            job.session = self._store.session(job.session.id, owner=job.session.owner)
            if job.cancelled:
                self._end(job, "cancelled")
            elif job.position >= len(job.ids):
                self._end(job, "done")
            else:
                self._read_chunk(job)
        except LearnerError as error:
            self._start_over(job, error)
        except NotFoundError:
            self._release(job)  # the session was deleted
        except FluvialError as error:
            self._fail(job.session, job.reading, error)
            self._release(job)
        except Exception as error:  # a defect must not end the thread that everyone's reading needs
            log.exception("reading %s failed", job.reading.id)
            self._fail(job.session, job.reading, error)
            self._release(job)

    def _read_chunk(self, job: _Job) -> None:
        rule = self._learner.rule
        live = self._prepare(job)
        start = job.position
        chunk = job.ids[start : start + rule.chunk_tokens]
        context = [self._first_token, *job.ids[:start]][-max(1, rule.overlap_tokens) :]
        learn = job.session.learning == "on"
        began = time.monotonic()
        result = self._learner.read(
            job.session.id,
            context=context,
            chunk=chunk,
            learn=learn,
            place=(job.reading.id, start),
        )
        self._note_speed(job, len(chunk) / max(1e-6, time.monotonic() - began))
        frozen_nats = self._keep_score(job, chunk, result)
        job.position += len(chunk)
        job.failures = 0
        if result.learned or result.skipped or result.restored:
            data = b"".join(map(self._tokenizer.token_bytes, chunk))
            live.unsaved.add(data, tokens=len(chunk), result=result, frozen_nats=frozen_nats)
        if live.unsaved.tokens >= self._version_tokens:
            self._save(job, live, status=None)
        elif not live.unsaved.tokens:
            job.reading = self._store.update_reading(job.reading, tokens_read=job.position)
        self._tell_reading(job)

    def _prepare(self, job: _Job) -> _Live:
        """Make sure that the learner's live state is the version in force."""
        live = self._live.get(job.session.id)
        fresh = live is not None and live.generation == self._learner.generation
        if live is None or not fresh or live.version != job.session.version:
            adapter = self._history.adapter(job.session)
            self._learner.load(job.session.id, adapter.tensors if adapter else None)
            live = _Live(version=job.session.version, generation=self._learner.generation)
            self._live[job.session.id] = live
        self._live.move_to_end(job.session.id)
        self._drop_idle()
        return live

    def _drop_idle(self) -> None:
        """Bound the learner's memory: let go of sessions with nothing unsaved, oldest first."""
        for session_id in [*self._live][:-1]:
            if len(self._live) <= MAX_LIVE_SESSIONS:
                return
            if not self._live[session_id].unsaved.tokens:
                self._learner.drop(session_id)
                del self._live[session_id]

    def _keep_score(self, job: _Job, chunk: Sequence[int], result: ChunkResult) -> float:
        """Store a chunk's scores; return the frozen model's, in nats."""
        if result.frozen_nats is None:  # evidence without its comparison would be none
            raise LearnerError("the learner answered without the frozen model's score")
        score = ChunkScore(
            session=job.session.id,
            reading=job.reading.id,
            start=job.position,
            tokens=len(chunk),
            bytes=sum(job.lengths[job.position : job.position + len(chunk)]),
            frozen_nats=result.frozen_nats,
            adapted_nats=result.adapted_nats,
            version=job.session.version,
            learned=result.learned,
            created_at=time.time(),
        )
        index = self._store.append_score(score)
        self._on_event("score", job.session, (index, score))
        return result.frozen_nats

    def _save(self, job: _Job, live: _Live, *, status: ReadingStatus | None) -> None:
        settled = self._learner.settle(job.session.id)
        unsaved = live.unsaved
        job.session, version = self._history.save(
            job.session,
            self._learner.export(job.session.id),
            reading=job.reading,
            tokens_read=job.position,
            status=status or job.reading.status,
            tokens_learned=unsaved.tokens,
            updates=unsaved.updates,
            skipped=unsaved.skipped,
            text_sha256=unsaved.text_sha256,
            score_before_bpb=unsaved.adapted_bpb,
            frozen_bpb=unsaved.frozen_bpb,
            drift=settled.drift,
            scale=settled.scale,
            note=settled.note,
            rule=self._learner.rule.to_json(),
        )
        job.reading = replace(
            job.reading, tokens_read=job.position, status=status or job.reading.status
        )
        live.version, live.unsaved = version.number, Unsaved()
        for reading in live.held:
            self._store.update_reading(reading, status="done", tokens_read=reading.tokens_read)
        live.held = []
        self._on_event("version", job.session, version)
        self._on_event("session", job.session, job.session)

    def _end(self, job: _Job, status: ReadingStatus) -> None:
        live = self._live.get(job.session.id)
        if live is not None and live.unsaved.tokens and status == "done" and self._has_more(job):
            live.held.append(_show(job))
        elif live is not None and live.unsaved.tokens:
            self._save(job, live, status=status)
        else:
            job.reading = self._store.update_reading(
                job.reading, status=status, tokens_read=job.position
            )
        self._tell_reading(job)
        self._release(job)

    def _has_more(self, job: _Job) -> bool:
        """Tell whether the session's next message can share this one's version."""
        if job.reading.kind != "message":
            return False
        held = {reading.id for live in self._live.values() for reading in live.held}
        return any(
            session.id == job.session.id and reading.id not in {job.reading.id, *held}
            for session, reading in self._store.unfinished_readings(model=self._model)
        )

    def _holding(self) -> list[str]:
        return [session_id for session_id, live in self._live.items() if live.held]

    def _start_over(self, job: _Job, error: LearnerError) -> None:
        """Go back to the last version after the learner failed; give up after a few in a row."""
        if self._desk.closing:
            self._release(job)
            return
        log.warning("reading %s: %s", job.reading.id, error)
        self._live.pop(job.session.id, None)
        job.failures += 1
        job.position = job.reading.tokens_read
        try:
            self._store.truncate_scores(job.reading, start=job.position)
        except FluvialError as fault:
            self._fail(job.session, job.reading, fault)
            self._release(job)
            return
        if job.failures >= MAX_FAILURES or job.cancelled:
            self._fail(job.session, job.reading, error)
            self._release(job)

    def _fail(self, session: Session, reading: Reading, error: Exception) -> None:
        message = error.message if isinstance(error, FluvialError) else f"unexpected: {error!r}"
        reading = replace(reading, status="failed", error=message)
        try:
            reading = self._store.update_reading(reading, status="failed", error=message)
        except (StorageError, NotFoundError):
            log.warning("the failure of reading %s could not be stored: %s", reading.id, message)
            self._pause()
        self._live.pop(session.id, None)
        self._on_event("reading", session, reading)

    def _pause(self) -> None:
        with self._desk.wake:
            if not self._desk.closing:
                self._desk.wake.wait(timeout=5.0)

    def _release(self, job: _Job) -> None:
        with self._desk.wake:
            self._desk.jobs.pop(job.reading.id, None)
            self._desk.wake.notify_all()

    def _note_speed(self, job: _Job, tokens_per_s: float) -> None:
        job.speed = tokens_per_s if job.speed is None else 0.7 * job.speed + 0.3 * tokens_per_s

    def _tell_reading(self, job: _Job) -> None:
        self._on_event("reading", job.session, _show(job))


def _show(job: _Job) -> Reading:
    return replace(job.reading, tokens_read=job.position)


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
