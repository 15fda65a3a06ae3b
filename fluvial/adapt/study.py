"""Read texts through the learner, those of several sessions at once: chunks, scores, versions.

What a session has learned since its last version lives in the learner process alone. It becomes a
version every `version_tokens`, and when the session has nothing more to read.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from fluvial.adapt.desk import Job
from fluvial.adapt.history import History
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.rule import ChunkResult, Read
from fluvial.adapt.unsaved import Unsaved
from fluvial.errors import LearnerError
from fluvial.model.tokenizer import Tokenizer
from fluvial.store.store import Store
from fluvial.types import ChunkScore, Reading, ReadingStatus, Session

OnEvent = Callable[[str, Session, object], None]
MAX_LIVE_SESSIONS = 4


@dataclass(frozen=True, eq=False)
class Answer:
    """What the learner found in a job's next chunk. `seconds`: the chunk's share of the request's.

    `tokens_per_s` is how fast the job went on, with others beside it.
    """

    job: Job
    read: Read
    result: ChunkResult
    seconds: float
    tokens_per_s: float


@dataclass(eq=False)
class _Live:
    """The learner's live state of one session: the version it grew from, what it read since."""

    version: int
    generation: int
    unsaved: Unsaved = field(default_factory=Unsaved)
    amid: bool = False
    """Whether something was read since progress was last saved; its windows are open."""
    held: list[Reading] = field(default_factory=list)
    """Messages read to the end whose learning no version holds yet; done once one does."""


class Study:
    """The sessions that are live in the learner; only the reading thread may use it."""

    def __init__(
        self,
        *,
        store: Store,
        history: History,
        learner: LearnerProcess,
        tokenizer: Tokenizer,
        first_token: int,
        version_tokens: int,
        on_event: OnEvent,
    ) -> None:
        self._store, self._history, self._learner = store, history, learner
        self._tokenizer = tokenizer
        self._first_token = first_token
        self._version_tokens = version_tokens
        self._on_event = on_event
        self._live: OrderedDict[str, _Live] = OrderedDict()

    @property
    def held(self) -> set[str]:
        """The readings that were read to the end, and wait for a version with those after them."""
        return {reading.id for live in self._live.values() for reading in live.held}

    @property
    def holding(self) -> set[str]:
        """The sessions of which readings are held."""
        return {session for session, live in self._live.items() if live.held}

    @property
    def amid(self) -> set[str]:
        """The sessions of which something was read since their progress was last saved."""
        return {session for session, live in self._live.items() if live.amid}

    def forget(self, session_id: str) -> None:
        """Give up what the session learned since its last version; the learner too, if it lives."""
        live = self._live.pop(session_id, None)
        if live is None or self._learner.state != "ready":
            return
        if live.generation == self._learner.generation:
            with contextlib.suppress(LearnerError):
                self._learner.drop(session_id)

    def has_lost(self, job: Job) -> bool:
        """Whether the learner no longer has what was read since the session was last saved.

        It died in another session's turn, or another version was put in force. The job must go
        back to where it was saved, and the messages held must be read again before it.
        """
        live = self._live.get(job.session.id)
        unsaved = job.unsaved_tokens > 0 or (live is not None and bool(live.held))
        return unsaved and not self._is_current(live, job.session)

    def prepare(self, job: Job) -> None:
        """Make sure that the learner's live state is the version in force."""
        live = self._live.get(job.session.id)
        if live is None or not self._is_current(live, job.session):
            adapter = self._history.adapter(job.session)
            self._learner.load(job.session.id, adapter.tensors if adapter else None)
            live = _Live(version=job.session.version, generation=self._learner.generation)
            self._live[job.session.id] = live
        live.amid = True
        self._live.move_to_end(job.session.id)
        self._drop_idle()

    def read_chunks(self, jobs: Sequence[Job]) -> list[Answer]:
        """Have the learner score each job's next chunk and learn from it, in one request.

        The jobs are of different sessions, and prepared; those whose state was lost since are left
        out. Windows begin anew where progress is saved, and only there: scores and versions then
        do not depend on crashes, nor on what other sessions read.
        """
        jobs = [job for job in jobs if self._find_current(job) is not None]
        if not jobs:
            return []
        reads = [self._cut(job) for job in jobs]
        began = time.monotonic()
        results = self._learner.read_all(reads)
        seconds = max(1e-6, time.monotonic() - began)
        share = seconds / sum(len(read.chunk) for read in reads)
        return [
            Answer(job, read, result, share * len(read.chunk), len(read.chunk) / seconds)
            for job, read, result in zip(jobs, reads, results, strict=True)
        ]

    def take(self, answer: Answer) -> None:
        """Store a chunk's scores, and save a version if one is due.

        An answer whose state was lost meanwhile counts for nothing: the chunk is read again.
        """
        job, result, tokens = answer.job, answer.result, len(answer.read.chunk)
        live = self._find_current(job)
        if live is None:
            return
        job.note_speed(answer.tokens_per_s)
        frozen_nats = self._keep_score(answer)
        job.position += tokens
        job.failures = 0
        if result.learned or result.skipped or result.restored:
            data = b"".join(map(self._tokenizer.token_bytes, answer.read.chunk))
            live.unsaved.add(data, tokens=tokens, result=result, frozen_nats=frozen_nats)
        if max(live.unsaved.tokens, job.unsaved_tokens) >= self._version_tokens:
            self._keep(job, live, status=job.reading.status)

    def _cut(self, job: Job) -> Read:
        """Cut a job's next chunk out of its text, and what the learner may need before it."""
        rule, start = self._learner.rule, job.position
        # Cut before it is copied: the cost of a chunk must not grow with what came before it.
        before = job.ids[max(0, start - rule.overlap_tokens) : start]
        return Read(
            session=job.session.id,
            context=[self._first_token, *before],
            chunk=job.ids[start : start + rule.chunk_tokens],
            learn=job.session.learning == "on",
            place=(f"{job.reading.id}/{job.reading.tokens_read}", start),
        )

    def end(self, job: Job, status: ReadingStatus, *, has_more: Callable[[], bool]) -> None:
        """Save what a job has learned; a message waits where the session `has_more` of them."""
        live = self._live.get(job.session.id)
        if live is not None and live.unsaved.tokens and status == "done" and has_more():
            live.held.append(job.show())
        else:
            self._keep(job, live, status=status)

    def _keep(self, job: Job, live: _Live | None, *, status: ReadingStatus) -> None:
        """Save a job's progress, as a version if anything was learned."""
        if live is not None and live.unsaved.tokens:
            self._save(job, live, status=status)
        else:
            job.reading = self._store.update_reading(
                job.reading, status=status, tokens_read=job.position
            )
        if live is not None:
            live.amid = False

    def _find_current(self, job: Job) -> _Live | None:
        live = self._live.get(job.session.id)
        return live if self._is_current(live, job.session) else None

    def _is_current(self, live: _Live | None, session: Session) -> bool:
        return (
            live is not None
            and live.generation == self._learner.generation
            and live.version == session.version
        )

    def _drop_idle(self) -> None:
        """Bound the learner's memory: let go of sessions that are amid nothing, oldest first."""
        for session_id in [*self._live][:-1]:
            if len(self._live) <= MAX_LIVE_SESSIONS:
                return
            if not self._live[session_id].amid:
                self._learner.drop(session_id)
                del self._live[session_id]

    def _keep_score(self, answer: Answer) -> float:
        """Store a chunk's scores; return the frozen model's, in nats."""
        job, read, result = answer.job, answer.read, answer.result
        if result.frozen_nats is None:  # evidence without its comparison would be none
            raise LearnerError("the learner answered without the frozen model's score")
        score = ChunkScore(
            session=job.session.id,
            reading=job.reading.id,
            start=job.position,
            tokens=len(read.chunk),
            bytes=sum(job.lengths[job.position : job.position + len(read.chunk)]),
            frozen_nats=result.frozen_nats,
            adapted_nats=result.adapted_nats,
            version=job.session.version,
            learned=result.learned,
            created_at=time.time(),
            reason=result.tell_reason(asked=read.learn),
            seconds=answer.seconds,
        )
        index = self._store.append_score(score)
        self._on_event("score", job.session, (index, score))
        return result.frozen_nats

    def _save(self, job: Job, live: _Live, *, status: ReadingStatus) -> None:
        settled = self._learner.settle(job.session.id)
        unsaved = live.unsaved
        job.session, version = self._history.save(
            job.session,
            self._learner.export(job.session.id),
            reading=job.reading,
            tokens_read=job.position,
            status=status,
            tokens_learned=unsaved.tokens,
            updates=unsaved.updates,
            skipped=unsaved.skipped,
            text_sha256=unsaved.text_sha256,
            score_before_bpb=unsaved.adapted_bpb,
            frozen_bpb=unsaved.frozen_bpb,
            drift=settled.drift,
            scale=settled.scale,
            notes=settled.notes,
            rule=self._learner.rule.to_json(),
        )
        job.reading = replace(job.reading, tokens_read=job.position, status=status)
        live.version, live.unsaved = version.number, Unsaved()
        for reading in live.held:
            self._store.update_reading(reading, status="done", tokens_read=reading.tokens_read)
        live.held = []
        self._on_event("version", job.session, version)
        self._on_event("session", job.session, job.session)
