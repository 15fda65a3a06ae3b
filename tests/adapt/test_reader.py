"""Reading end to end: scores, versions, freezing, undoing, cancelling, crashing."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fluvial.adapt.cache import AdapterCache
from fluvial.adapt.reader import MAX_FAILURES
from fluvial.adapt.rule import ChunkResult, Read
from fluvial.errors import ConflictError, LearnerError, ModelError
from fluvial.types import Session
from tests.adapt.conftest import Desk, open_desk

TEXT = "the thing is that the king is in the ring. " * 30
LONG = TEXT * 8


def test_a_text_is_scored_learned_and_saved(desk: Desk) -> None:
    session = desk.begin()
    reading = desk.wait_ended(session, desk.queue(session, TEXT))
    assert (reading.status, reading.tokens_read) == ("done", reading.tokens_total)
    scores = [score for _, score in desk.store.scores(session)]
    assert sum(score.bytes for score in scores) == len(TEXT.encode())
    assert [score.start for score in scores] == list(range(0, reading.tokens_read, 64))
    assert scores[0].adapted_nats == pytest.approx(scores[0].frozen_nats)
    assert all(score.seconds is not None and score.seconds > 0 for score in scores)
    assert all((score.reason == "") == score.learned for score in scores)
    last = [score for score in scores if score.tokens == 64][-1]
    assert last.adapted_nats < 0.9 * last.frozen_nats
    versions = desk.store.versions(session)
    assert sum(version.tokens_learned for version in versions) == sum(
        score.tokens for score in scores if score.learned
    )
    session = desk.store.session(session.id, owner="me")
    assert session.version == versions[-1].number
    assert desk.history.adapter(session) is not None


def test_a_frozen_session_is_scored_but_not_changed(desk: Desk) -> None:
    session = desk.begin(learning="frozen")
    reading = desk.wait_ended(session, desk.queue(session, TEXT))
    assert reading.status == "done"
    assert desk.store.versions(session) == []
    scores = [score for _, score in desk.store.scores(session)]
    assert all(not score.learned for score in scores)
    assert {score.reason for score in scores} == {"frozen"}
    assert all(score.adapted_nats == pytest.approx(score.frozen_nats) for score in scores)


def test_what_is_learned_after_an_undo_grows_from_the_version_restored(desk: Desk) -> None:
    session = desk.begin()
    desk.wait_ended(session, desk.queue(session, TEXT))
    first = desk.store.versions(session)[0]
    session = desk.history.restore(desk.store.session(session.id, owner="me"), first.number)
    desk.wait_ended(session, desk.queue(session, TEXT))
    grown = next(v for v in desk.store.versions(session) if v.parent == first.number and v != first)
    assert grown.number > first.number


def test_undo_to_the_base_is_the_base(desk: Desk) -> None:
    session = desk.begin()
    desk.wait_ended(session, desk.queue(session, TEXT))
    session = desk.history.restore(desk.store.session(session.id, owner="me"), 0)
    assert desk.history.adapter(session) is None


def test_a_cancelled_reading_stops_and_keeps_what_it_learned(desk: Desk) -> None:
    session = desk.begin()
    reading = desk.queue(session, LONG)
    desk.wait(lambda: desk.count("score") >= 3)
    desk.reader.cancel(desk.store.reading(session, reading.id))
    reading = desk.store.reading(session, reading.id)
    assert reading.status == "cancelled"
    assert 0 < reading.tokens_read < (reading.tokens_total or 0)
    learned = sum(v.tokens_learned for v in desk.store.versions(session))
    assert learned == reading.tokens_read


def test_a_waiting_reading_can_be_cancelled(desk: Desk) -> None:
    session = desk.begin()
    desk.queue(session, LONG)
    waiting = desk.queue(session, TEXT)
    desk.wait(lambda: desk.count("score") >= 1)
    desk.reader.cancel(waiting)
    assert desk.store.reading(session, waiting.id).status == "cancelled"


def test_sessions_are_read_in_turn(desk: Desk) -> None:
    long, short = desk.begin(), desk.begin()
    first = desk.queue(long, LONG)
    desk.wait(lambda: desk.count("score") >= 2)
    desk.wait_ended(short, desk.queue(short, TEXT))
    assert desk.store.reading(long, first.id).status == "reading"


def test_sessions_with_queued_texts_are_asked_for_in_one_request(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _note_requests(desk, monkeypatch)
    sessions = _queue_at_once(desk, 2)
    chunks = [len(desk.store.scores(session)) for session in sessions]
    assert chunks[0] == chunks[1] > 4
    assert sum(map(len, asked)) == sum(chunks)
    assert [set(names) for names in asked].count({s.id for s in sessions}) >= chunks[0] - 1
    first, second = (
        [(v.drift, v.text_sha256) for v in desk.store.versions(each)] for each in sessions
    )
    assert first == second


def test_the_cost_of_a_request_is_shared_out_among_its_chunks(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    took = 0.0
    read_all = desk.learner.read_all

    def read_slowly(reads: Sequence[Read]) -> list[ChunkResult]:
        nonlocal took
        began = time.monotonic()
        time.sleep(0.05)
        results = read_all(reads)
        took += time.monotonic() - began
        return results

    monkeypatch.setattr(desk.learner, "read_all", read_slowly)
    sessions = _queue_at_once(desk, 3)
    cost = sum(score.seconds or 0 for each in sessions for _, score in desk.store.scores(each))
    assert cost == pytest.approx(took, rel=0.2)


def test_a_chunk_that_fails_the_learner_fails_its_own_reading_alone(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = _note_requests(desk, monkeypatch, poison="poison " * 40)
    sessions = _queue_at_once(desk, 2, first="poison " * 40 + TEXT)
    bad, good = (desk.store.readings(each)[0] for each in sessions)
    assert (bad.status, good.status) == ("failed", "done")
    assert "poisoned" in bad.error
    assert sum(sessions[0].id in names for names in asked) == MAX_FAILURES
    starts = [score.start for _, score in desk.store.scores(sessions[1])]
    assert starts == list(range(0, good.tokens_total or 0, 64))


def test_a_damaged_version_fails_no_other_session_of_its_batch(desk: Desk) -> None:
    sessions = _queue_at_once(desk, 2)
    damaged = desk.store.session(sessions[0].id, owner="me")
    desk.store.version_path(damaged, damaged.version).write_bytes(b"no version")
    desk.history._cache = AdapterCache(kept=8)
    desk.reader._study.forget(damaged.id)
    _queue_for(desk, sessions)
    last = [desk.store.readings(each)[-1].status for each in sessions]
    assert last == ["failed", "done"]


def _note_requests(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, poison: str = ""
) -> list[list[str]]:
    """Note the sessions of each request; one that holds the beginning of `poison` fails."""
    asked: list[list[str]] = []
    read_all = desk.learner.read_all
    begin = desk.reader._tokenizer.encode(poison)[:16]

    def read(reads: Sequence[Read]) -> list[ChunkResult]:
        asked.append([each.session for each in reads])
        if begin and any([*each.chunk[:16]] == begin for each in reads):
            raise LearnerError("poisoned")
        return read_all(reads)

    monkeypatch.setattr(desk.learner, "read_all", read)
    return asked


def _queue_at_once(desk: Desk, count: int, *, first: str = TEXT) -> list[Session]:
    sessions = [desk.begin() for _ in range(count)]
    _queue_for(desk, sessions, first=first)
    return sessions


def _queue_for(desk: Desk, sessions: Sequence[Session], *, first: str = TEXT) -> None:
    """Queue a text for each before the reader looks, and wait for them all."""
    texts = [first, *[TEXT] * (len(sessions) - 1)]
    readings = [
        desk.store.create_reading(session, kind="document", name="t", text=text)
        for session, text in zip(sessions, texts, strict=True)
    ]
    desk.reader.wake()
    for session, reading in zip(sessions, readings, strict=True):
        desk.wait_ended(session, reading)


def test_small_messages_wait_until_there_is_enough(desk: Desk) -> None:
    session = desk.begin()
    small = desk.queue(session, "a few words, no more than that", kind="message")
    probe = desk.begin()
    desk.wait_ended(probe, desk.queue(probe, TEXT))
    assert desk.store.reading(session, small.id).status == "queued"
    desk.queue(session, "x " * 1200, kind="message")
    assert desk.wait_ended(session, small).status == "done"


def test_a_killed_learner_is_started_again_and_nothing_is_counted_twice(
    own_desk: Desk,
) -> None:
    session = own_desk.begin()
    reading = own_desk.queue(session, LONG)
    own_desk.wait(lambda: own_desk.count("version") >= 1)
    process = own_desk.learner._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    reading = own_desk.wait_ended(session, reading)
    assert reading.status == "done"
    assert own_desk.learner.generation == 2
    starts = [score.start for _, score in own_desk.store.scores(session)]
    assert starts == sorted(set(starts))
    learned = sum(v.tokens_learned for v in own_desk.store.versions(session))
    scored = sum(score.tokens for _, score in own_desk.store.scores(session) if score.learned)
    assert learned == scored


def test_reading_goes_on_after_a_restart(tmp_path: Path, tiny_model: Path) -> None:
    desk = open_desk(tmp_path / "data", tiny_model)
    session = desk.begin()
    reading = desk.queue(session, LONG)
    desk.wait(lambda: desk.count("version") >= 1)
    desk.reader.close()
    desk.store.close()
    kept = open_desk(tmp_path / "data", tiny_model)
    kept.reader.wake()
    ended = kept.wait_ended(session, kept.store.reading(session, reading.id))
    assert ended.status == "done"
    starts = [score.start for _, score in kept.store.scores(session)]
    assert starts == list(range(0, ended.tokens_total or 0, 64))
    kept.reader.close()
    kept.store.close()


def test_a_damaged_version_is_refused_by_name(desk: Desk) -> None:
    session = desk.begin()
    desk.wait_ended(session, desk.queue(session, TEXT))
    session = desk.store.session(session.id, owner="me")
    path = desk.store.version_path(session, session.version)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    desk.history._cache = AdapterCache(kept=8)
    with pytest.raises(ModelError, match="is damaged .* restore another"):
        desk.history.adapter(session)


def test_versions_survive_and_equal_what_was_learned(desk: Desk) -> None:
    session = desk.begin()
    desk.wait_ended(session, desk.queue(session, TEXT))
    session = desk.store.session(session.id, owner="me")
    cached = desk.history.adapter(session)
    desk.history._cache = AdapterCache(kept=8)
    loaded = desk.history.adapter(session)
    assert cached is not None
    assert loaded is not None
    for name, tensor in cached.tensors.items():
        np.testing.assert_array_equal(tensor, loaded.tensors[name])


def test_the_version_in_force_can_not_be_deleted_others_can(desk: Desk) -> None:
    session = desk.begin()
    desk.wait_ended(session, desk.queue(session, TEXT))
    session = desk.store.session(session.id, owner="me")
    with pytest.raises(ConflictError):
        desk.history.delete(session, session.version)
    old = desk.store.versions(session)[0]
    path = desk.store.version_path(session, old.number)
    desk.history.delete(session, old.number)
    assert not path.exists()
    session = desk.history.forget(session)
    assert session.version == 0
    assert desk.store.versions(session) == []
    assert desk.store.scores(session) == []


def test_a_reading_cancelled_while_it_is_opened_is_never_scored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, go_on = threading.Event(), threading.Event()
    encode = desk.reader._tokenizer.encode

    def encode_slowly(text: str) -> list[int]:
        opened.set()
        go_on.wait(60)
        return encode(text)

    monkeypatch.setattr(desk.reader._tokenizer, "encode", encode_slowly)
    session = desk.begin()
    reading = desk.queue(session, TEXT)
    assert opened.wait(60)
    stopper = threading.Thread(target=desk.reader.cancel, args=(reading,))
    stopper.start()
    while not desk.reader._desk.cancelled:
        time.sleep(0.01)
    go_on.set()
    stopper.join(60)
    assert desk.store.reading(session, reading.id).status == "cancelled"
    assert desk.store.scores(session) == []
