"""The learner is killed at random moments: nothing is lost, nothing twice, not a bit differs."""

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fluvial.adapt.process import LearnerProcess
from fluvial.model.adapter_file import hash_bytes
from fluvial.model.checkpoint import open_checkpoint
from fluvial.types import Session
from tests.adapt.conftest import RULE, Desk, open_desk
from tests.adapt.stream import BUDGET

WORDS = ("the", "a", "king", "ring", "in", "on", "thing", "is", "are", "here", "there", "when")
LEARNING = ("on", "on", "frozen")
Score = tuple[int, int, float, float, bool]


def test_a_learner_killed_ten_times_leaves_what_an_undisturbed_one_does(
    tmp_path: Path, tiny_model: Path
) -> None:
    _compare(tmp_path, tiny_model, rounds=10)


@pytest.mark.slow
def test_a_learner_killed_a_hundred_times_leaves_what_an_undisturbed_one_does(
    tmp_path: Path, tiny_model: Path
) -> None:
    _compare(tmp_path, tiny_model, rounds=100)


def test_one_killed_over_and_over_fails_its_reading_and_what_was_saved_stays(
    tmp_path: Path, tiny_model: Path
) -> None:
    with _open(tmp_path / "data", tiny_model) as desk:
        session = desk.begin()
        kept = desk.wait_ended(session, desk.queue(session, _write(random.Random(0))))
        before = _list_versions(desk, session)
        desk.learner._closed, desk.learner.state = True, "off"  # it can't be started again
        _kill(desk)
        failed = desk.wait_ended(session, desk.queue(session, _write(random.Random(1))))
        assert (kept.status, failed.status) == ("done", "failed")
        assert failed.error
        assert _list_versions(desk, session) == before
        _assert_whole(desk, session)


def test_a_death_is_noticed_by_all_sessions_at_once(tmp_path: Path, tiny_model: Path) -> None:
    """None takes the new process for one that knows it: that would count as one more failure."""
    with _open(tmp_path / "data", tiny_model) as desk:
        sessions = [desk.begin() for _ in range(3)]
        texts = random.Random(1)
        readings = [(each, desk.queue(each, _write(texts) * 2)) for each in sessions]
        desk.wait(lambda: desk.count("score") >= 7)
        _kill(desk)
        desk.wait(lambda: desk.learner.generation == 2)
        failures = {reading.id: 0 for _, reading in readings}

        def look() -> bool:
            for job in [*desk.reader._desk.jobs.values()]:
                failures[job.reading.id] = max(failures[job.reading.id], job.failures)
            return desk.count("score") >= 14

        desk.wait(look)
        assert max(failures.values()) <= 1
        for session, reading in readings:
            assert desk.wait_ended(session, reading).status == "done"


def _compare(tmp_path: Path, model: Path, *, rounds: int) -> None:
    with _open(tmp_path / "calm", model) as desk:
        calm = _read_rounds(desk, rounds=rounds, killer=None)
        expected = [(_list_versions(desk, s), _list_scores(desk, s)) for s in calm]
        assert desk.learner.generation == 1
    with _open(tmp_path / "killed", model) as desk:
        sessions = _read_rounds(desk, rounds=rounds, killer=random.Random(7))
        assert desk.learner.generation > rounds // 2  # a kill after a round's end shows in the next
        for session, (versions, scores) in zip(sessions, expected, strict=True):
            _assert_whole(desk, session)
            assert _list_versions(desk, session) == versions
            assert _list_scores(desk, session) == scores
    assert [len(versions) > 2 * rounds for versions, _ in expected] == [True, True, False]


def _read_rounds(desk: Desk, *, rounds: int, killer: random.Random | None) -> list[Session]:
    """Read a text in each of three sessions, round after round, with a kill in each round."""
    texts = random.Random(1)
    sessions = [desk.begin(learning=learning) for learning in LEARNING]
    for _ in range(rounds):
        begun = desk.count("score")
        readings = [(each, desk.queue(each, _write(texts))) for each in sessions]
        if killer is not None:
            _kill_once(desk, killer, begun)
        for session, reading in readings:
            assert desk.wait_ended(session, reading).status == "done"
    return sessions


def _kill_once(desk: Desk, rng: random.Random, begun: int) -> None:
    """Kill at a random moment of the round; sometimes again, while it starts."""
    target = begun + rng.randrange(25)
    desk.wait(lambda: desk.count("score") >= target)
    time.sleep(rng.random() * 0.03)
    generation = desk.learner.generation
    _kill(desk)
    if rng.random() < 0.2:
        while desk.learner.generation == generation:
            time.sleep(0.01)
        time.sleep(rng.random())
        _kill(desk)


def _kill(desk: Desk) -> None:
    process = desk.learner._process
    if process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _write(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(220))


def _assert_whole(desk: Desk, session: Session) -> None:
    """Every version's file is what its row says, and every token was scored exactly once."""
    for version in desk.store.versions(session):
        data = desk.history.read(session, version)
        assert hash_bytes(data) == version.sha256
        assert desk.history.decode(data)
    for reading in desk.store.readings(session):
        if reading.status != "done":
            continue
        scores = [s for _, s in desk.store.scores(session) if s.reading == reading.id]
        assert [s.start for s in scores] == list(range(0, reading.tokens_total or 0, 64))
        assert sum(s.tokens for s in scores) == reading.tokens_total == reading.tokens_read


def _list_versions(desk: Desk, session: Session) -> list[tuple[str, int, str, float | None]]:
    versions = desk.store.versions(session)
    return [(v.id, v.tokens_learned, v.text_sha256, v.drift) for v in versions]


def _list_scores(desk: Desk, session: Session) -> list[Score]:
    order = [reading.id for reading in desk.store.readings(session)]
    found = [score for _, score in desk.store.scores(session)]
    found.sort(key=lambda s: (order.index(s.reading), s.start))
    return [(s.start, s.tokens, s.frozen_nats, s.adapted_nats, s.learned) for s in found]


@contextmanager
def _open(data_dir: Path, model: Path) -> Iterator[Desk]:
    learner = LearnerProcess(
        model,
        sha256=open_checkpoint(model).sha256,
        rule=RULE,
        threads=1,
        graph_dir=data_dir / "graph",
        positions=512,
        drift_budget=BUDGET,
    )
    desk = open_desk(data_dir, model, learner=learner)
    try:
        yield desk
    finally:
        desk.reader.close()
        desk.store.close()
