"""A reader over a real store, a real learner process and a tiny model."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fluvial.adapt.history import History
from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.reader import Reader
from fluvial.adapt.rule import Rule
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.opening import choose_first_token, open_tokenizer
from fluvial.store.store import Store
from fluvial.types import Reading, Session

RULE = Rule(rank=4, chunk_tokens=64, overlap_tokens=16, stride_tokens=256)
PATIENCE_S = 120


@dataclass
class Desk:
    """What a test holds: the parts, and the events so far."""

    store: Store
    history: History
    learner: LearnerProcess
    reader: Reader
    model: str = "tiny"
    checkpoint: str = ""
    events: list[tuple[str, Session, object]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, kind: str, session: Session, record: object) -> None:
        with self.changed:
            self.events.append((kind, session, record))
            self.changed.notify_all()

    def begin(self, *, learning: str = "on") -> Session:
        return self.store.create_session(
            owner="me",
            title="t",
            model=self.model,
            checkpoint=self.checkpoint,
            learning=learning,  # type: ignore[arg-type]
        )

    def queue(self, session: Session, text: str, *, kind: str = "document") -> Reading:
        reading = self.store.create_reading(session, kind=kind, name="text", text=text)  # type: ignore[arg-type]
        self.reader.wake()
        return reading

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, timeout=PATIENCE_S)

    def wait_ended(self, session: Session, reading: Reading) -> Reading:
        ended = ("done", "cancelled", "failed")
        self.wait(lambda: self.store.reading(session, reading.id).status in ended)
        return self.store.reading(session, reading.id)

    def count(self, kind: str) -> int:
        return sum(event[0] == kind for event in self.events)


class KeptLearner(LearnerProcess):
    """A learner that outlives its readers: starting one loads torch, which takes seconds."""

    def close(self) -> None:
        """Leave the process to the next reader, whose sessions have other names."""

    def end(self) -> None:
        super().close()


def open_desk(
    data_dir: Path,
    model: Path,
    *,
    learner: LearnerProcess | None = None,
    version_tokens: int = 256,
) -> Desk:
    """Open a store and a reader; the learner is one of its own, unless one is given."""
    checkpoint = open_checkpoint(model)
    tokenizer = open_tokenizer(checkpoint)
    store = Store.open(data_dir)
    history = History(store, declaration=checkpoint.declaration, checkpoint=checkpoint.sha256)
    if learner is None:
        learner = LearnerProcess(model, sha256=checkpoint.sha256, rule=RULE, threads=1)
    desk: Desk
    reader = Reader(
        store=store,
        history=history,
        learner=learner,
        tokenizer=tokenizer,
        model="tiny",
        checkpoint=checkpoint.sha256,
        first_token=choose_first_token(tokenizer),
        version_tokens=version_tokens,
        on_event=lambda *event: desk.note(*event),
    )
    desk = Desk(store, history, learner, reader, checkpoint=checkpoint.sha256)
    learner.start()
    reader.start()
    return desk


@pytest.fixture(scope="session")
def kept_learner(tiny_model: Path) -> Iterator[KeptLearner]:
    sha256 = open_checkpoint(tiny_model).sha256
    learner = KeptLearner(tiny_model, sha256=sha256, rule=RULE, threads=1)
    yield learner
    learner.end()


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path, kept_learner: KeptLearner) -> Iterator[Desk]:
    """A desk whose learner other tests use too."""
    yield from _use(open_desk(tmp_path / "data", tiny_model, learner=kept_learner))


@pytest.fixture
def own_desk(tmp_path: Path, tiny_model: Path) -> Iterator[Desk]:
    """A desk whose learner the test may end."""
    yield from _use(open_desk(tmp_path / "data", tiny_model))


def _use(desk: Desk) -> Iterator[Desk]:
    yield desk
    desk.reader.close()
    desk.store.close()
