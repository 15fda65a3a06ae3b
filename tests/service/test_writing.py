"""The record of an answer: which adapter is in force, asked between tokens."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.errors import ConflictError
from fluvial.service.writing import Writing
from fluvial.testing import Rig, make_rig, make_tensors
from fluvial.types import Message, Sampling, Session


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = make_rig(tmp_path)
    yield rig
    rig.service.close()


def learn(rig: Rig, session: Session) -> Session:
    reading = rig.store.create_reading(session, kind="document", name="a", text="text")
    session, _ = rig.history.save(
        session,
        make_tensors(1),
        reading=reading,
        tokens_read=4,
        status="done",
        tokens_learned=4,
        updates=1,
        drift=0.01,
    )
    return session


def test_the_store_is_read_only_after_a_change(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    session = rig.service.create_session(owner="local")
    writing = Writing(rig.store, hub=rig.hub, session=session)
    reads: list[str] = []
    find = rig.store.session

    def note(id: str, *, owner: str) -> Session:
        reads.append(id)
        return find(id, owner=owner)

    monkeypatch.setattr(rig.store, "session", note)
    assert [writing.adapter(rig.history) for _ in range(5)] == [None] * 5
    assert reads == []
    learned = learn(rig, session)
    rig.hub.publish("version", learned, learned)
    keys = [writing.adapter(rig.history) for _ in range(5)]
    assert [adapter.key for adapter in keys if adapter] == [f"{session.id}/1"] * 5
    assert len(reads) == 1


def test_a_version_that_was_just_forgotten_gives_way_to_the_one_in_force(rig: Rig) -> None:
    session = learn(rig, rig.service.create_session(owner="local"))
    writing = Writing(rig.store, hub=rig.hub, session=session)
    assert writing.adapter(rig.history) is not None
    rig.history.forget(session)
    assert writing.adapter(rig.history) is None


def test_a_version_that_may_not_answer_ends_an_answer_under_way(rig: Rig) -> None:
    def require(session: Session) -> None:
        if session.version:
            raise ConflictError("not covered", code="version_not_covered")

    session = rig.service.create_session(owner="local")
    writing = Writing(rig.store, hub=rig.hub, session=session, require=require)
    assert writing.adapter(rig.history) is None
    learned = learn(rig, session)
    rig.hub.publish("version", learned, learned)
    with pytest.raises(ConflictError, match="not covered"):
        writing.adapter(rig.history)


def test_an_answer_is_begun_with_what_is_in_force_then(rig: Rig) -> None:
    stale = learn(rig, rig.service.create_session(owner="local"))
    rig.history.restore(stale, 0)

    async def ask() -> int | None:
        asked = [Message(role="user", content="hi")]
        turn = await rig.service.answer(stale, asked, sampling=Sampling())
        await turn.wait()
        return None if turn.receipt is None else turn.receipt.version

    assert asyncio.run(ask()) == 0
