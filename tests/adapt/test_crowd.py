"""Many sessions at once: each is read as if alone, and none that ends leaves anything behind."""

from pathlib import Path

import pytest

from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.study import MAX_LIVE_SESSIONS
from fluvial.model.checkpoint import open_checkpoint
from fluvial.types import Reading, Session
from tests.adapt.conftest import RULE, Desk, open_desk
from tests.adapt.stream import BUDGET

TEXT = "the thing is that the king is in the ring. " * 16
COUNT = 9


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path):
    """A desk whose learner reads with the engine, where room for windows is limited."""
    learner = LearnerProcess(
        tiny_model,
        sha256=open_checkpoint(tiny_model).sha256,
        rule=RULE,
        threads=1,
        graph_dir=tmp_path / "graph",
        positions=512,
        drift_budget=BUDGET,
    )
    desk = open_desk(tmp_path / "data", tiny_model, learner=learner)
    yield desk
    desk.reader.close()
    desk.store.close()


@pytest.mark.parametrize("learning", ["on", "frozen"])
def test_many_sessions_at_once_are_each_read_as_if_alone(desk: Desk, learning: str) -> None:
    alone = desk.begin(learning=learning)
    desk.wait_ended(alone, desk.queue(alone, TEXT))
    expected = _describe(desk, alone)
    sessions = [desk.begin(learning=learning) for _ in range(COUNT)]
    readings = [
        desk.store.create_reading(s, kind="document", name="t", text=TEXT) for s in sessions
    ]
    desk.reader.wake()
    for session, reading in zip(sessions, readings, strict=True):
        assert desk.wait_ended(session, reading).status == "done"
        assert _describe(desk, session) == expected
    assert desk.learner.generation == 1
    assert len(desk.reader._study._live) <= MAX_LIVE_SESSIONS


def test_sessions_deleted_while_they_are_read_leave_room(desk: Desk) -> None:
    for _ in range(8):
        session = desk.begin()
        before = desk.count("score")
        desk.queue(session, TEXT * 8)
        desk.wait(lambda before=before: desk.count("score") > before)
        desk.store.delete_session(session)
    last = desk.begin()
    assert desk.wait_ended(last, desk.queue(last, TEXT)).status == "done"
    assert not desk.reader._study.amid
    assert set(desk.reader._study._live) == {last.id}
    assert not desk.reader._desk.jobs


def test_a_message_does_not_wait_for_one_that_was_cancelled(desk: Desk) -> None:
    session = desk.begin()
    first = _queue_message(desk, session)
    second = _queue_message(desk, session)
    desk.reader.wake()
    desk.wait(lambda: bool(desk.reader._study.holding) or desk.count("version") > 0)
    desk.reader.cancel(desk.store.reading(session, second.id))
    assert desk.wait_ended(session, first).status == "done"
    assert desk.store.versions(session)


def _queue_message(desk: Desk, session: Session) -> Reading:
    return desk.store.create_reading(session, kind="message", name="m", text=TEXT * 4)


def _describe(desk: Desk, session: Session) -> tuple[list[object], list[object]]:
    versions = [(v.id, v.drift) for v in desk.store.versions(session)]
    scores = [score for _, score in desk.store.scores(session)]
    return versions, [(s.start, s.frozen_nats, s.adapted_nats) for s in scores]
