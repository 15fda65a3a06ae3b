"""Sharing between owners: only what is published, and only when it is asked for."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fluvial.config import load
from fluvial.errors import ConflictError, FluvialError, ForbiddenError, NotFoundError
from fluvial.service.merging import Part, add_up
from fluvial.testing import MODEL, Rig, make_rig, make_tensors
from fluvial.types import Session
from fluvial.version_note import ScaledBack


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = make_rig(tmp_path)
    yield rig
    rig.service.close()


def learn(rig: Rig, owner: str, seed: int) -> Session:
    session = rig.service.create_session(owner=owner)
    return rig.history.add(
        session, make_tensors(seed), origin="import", parents=(), rule="", drift=0.0
    )[0]


def test_everyone_sees_what_is_published_and_only_its_owner_takes_it_back(rig: Rig) -> None:
    mine, theirs = learn(rig, "ann", 1), learn(rig, "bob", 2)
    rig.service.publications.publish(mine, "1", name="rivers")
    (seen,) = rig.service.publications.list_all()
    assert (seen.name, seen.version.session, seen.version.reading) == ("rivers", "", None)
    with pytest.raises(ForbiddenError) as caught:
        rig.service.publications.withdraw("rivers", owner="bob")
    assert caught.value.code == "not_yours"
    adopted = rig.service.publications.adopt(theirs, "rivers")
    assert (adopted.number, adopted.parent, adopted.origin) == (2, 1, "adopt")
    rig.service.publications.withdraw("rivers", owner="ann")
    assert rig.service.versions.restore(theirs, "1").version == 1
    assert rig.service.versions.restore(theirs, "2").version == 2
    with pytest.raises(NotFoundError):
        rig.service.publications.adopt(theirs, "rivers")


def test_a_merge_takes_what_is_published_but_nothing_else_of_another_owner(rig: Rig) -> None:
    mine, theirs = learn(rig, "ann", 1), learn(rig, "bob", 2)
    id = rig.store.version(mine, 1).id
    for part in (
        Part(session=mine.id, version="1"),
        Part(session=mine.id, version=id),
        Part(version=id),
        Part(published="rivers"),
    ):
        with pytest.raises(NotFoundError):
            rig.service.merging.merge(theirs, [Part(version="1"), part])
    rig.service.publications.publish(mine, "1", name="rivers")
    parts = [Part(version="1", weight=0.5), Part(published="rivers", weight=0.5)]
    merged = rig.service.merging.merge(theirs, parts, rank=2)
    assert merged.loss == 0
    assert merged.version.parents == (rig.store.version(theirs, 1).id, id)
    adapter = rig.history.load(theirs, merged.version.number)
    assert adapter is not None
    change = adapter.tensors["layers.0.o.a"] @ adapter.tensors["layers.0.o.b"]
    one, two = make_tensors(1), make_tensors(2)
    expected = sum(0.5 * (t["layers.0.o.a"] @ t["layers.0.o.b"]) for t in (one, two))
    assert change == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_versions_of_other_weights_do_not_mix(rig: Rig) -> None:
    session = learn(rig, "ann", 1)
    other = rig.store.create_session(
        owner="ann", title="", model="other", checkpoint="ab" * 32, learning="on"
    )
    with pytest.raises(ConflictError) as caught:
        rig.service.merging.merge(session, [Part(version="1"), Part(session=other.id, version="1")])
    assert caught.value.code == "other_base"
    rig.service.publications.publish(session, "1", name="rivers")
    acts = [
        lambda: rig.service.publications.adopt(other, "rivers"),
        lambda: rig.service.merging.merge(other, [Part(version="1")] * 2),
        lambda: rig.service.exchange.take(other, b""),
        lambda: rig.service.comparisons.compare(other, "0", "0", text="x"),
    ]
    for act in acts:
        with pytest.raises(ConflictError) as caught:
            act()
        assert caught.value.code == "model_not_served"


def test_a_merge_over_the_drift_budget_is_scaled_back(rig: Rig) -> None:
    session = rig.service.create_session(owner="ann")
    large = {name: 30 * array for name, array in make_tensors(1).items()}
    for _ in range(2):
        session, _ = rig.history.add(
            session, large, origin="import", parents=(), rule="", drift=0.0
        )
    merged = rig.service.merging.merge(session, [Part(version="1"), Part(version="2")])
    assert merged.version.drift is not None
    budget = load().drift_budget
    assert 0.9 * budget < merged.version.drift <= budget
    assert 0 < merged.version.scale < 0.1
    (note,) = merged.version.notes
    assert isinstance(note, ScaledBack)
    assert note.budget == budget < (note.drift or 0)


def test_versions_with_one_a_add_up_in_b_exactly() -> None:
    one, two, three = (make_tensors(seed, rank=2) for seed in (1, 2, 3))
    a, b = "layers.0.o.a", "layers.0.o.b"
    shared = add_up([(one, 0.5), ({**two, a: one[a]}, -2.0)])
    np.testing.assert_array_equal(shared[a], one[a])
    np.testing.assert_allclose(shared[b], 0.5 * one[b] - 2 * two[b], rtol=1e-6)
    apart = add_up([(one, 0.5), (three, -2.0)])
    assert apart[a].shape == (4, 4)
    np.testing.assert_allclose(
        apart[a] @ apart[b], 0.5 * one[a] @ one[b] - 2 * three[a] @ three[b], atol=1e-7
    )
    np.testing.assert_allclose(
        shared[a] @ shared[b], 0.5 * one[a] @ one[b] - 2 * one[a] @ two[b], atol=1e-7
    )


def test_events_tell_of_versions_that_do_not_come_from_reading(rig: Rig) -> None:
    session = learn(rig, "ann", 1)
    events: list[tuple[str, object]] = []
    publish = rig.hub.publish
    rig.hub.publish = lambda kind, session, record: (  # type: ignore[method-assign]
        events.append((kind, record)),
        publish(kind, session, record),
    )[1]
    rig.service.publications.publish(session, "1", name="rivers")
    version = rig.service.publications.adopt(session, "rivers")
    now = rig.service.session(session.id, owner="ann")
    assert events == [("version", version), ("session", now)]
    assert now.version == 2


def test_expiry_tells_those_who_watch(rig: Rig) -> None:
    session = learn(rig, "ann", 1)
    session = rig.service.versions.restore(session, "0")
    with rig.store._database.write() as connection:
        connection.exec_driver_sql("UPDATE version SET expires_at = 5.0")
    told: list[str] = []
    rig.hub.publish = lambda kind, session, record: told.append(session.id)  # type: ignore[method-assign]
    expiry = rig.service._expiry
    assert expiry.look(now=4.0) == []
    assert [each.number for each in expiry.look(now=6.0)] == [1]
    assert told == [session.id]
    assert rig.engine.forgotten_adapters == [(f"{session.id}/1", "ann")]
    assert rig.service.versions.list_all(session).versions == []


def test_the_expiry_thread_looks_at_the_start(rig: Rig) -> None:
    session = learn(rig, "ann", 1)
    session = rig.service.versions.restore(session, "0")
    with rig.store._database.write() as connection:
        connection.exec_driver_sql("UPDATE version SET expires_at = 5.0")
    rig.service.start()
    for _ in range(2000):
        if not rig.service.versions.list_all(session).versions:
            break
        rig.service._expiry._closing.wait(0.01)
    assert rig.service.versions.list_all(session).versions == []


def test_what_can_not_be_scored_says_so(tmp_path: Path) -> None:
    rig = make_rig(tmp_path)
    rig.service.comparisons._score = None
    session = learn(rig, "ann", 1)
    with pytest.raises(FluvialError) as caught:
        rig.service.comparisons.compare(session, "1", "0", text="x")
    assert (caught.value.status, caught.value.code) == (409, "scoring_unavailable")
    rig.service.comparisons._score = lambda ids, adapter: [1.0]
    with pytest.raises(FluvialError, match="1 losses came back for 3 tokens"):
        rig.service.comparisons.compare(session, "1", "0", text="xyz")
    rig.service.close()
    assert MODEL.sha256 == session.checkpoint
