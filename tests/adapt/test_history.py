"""Versions: named, kept in memory while they are used, copied, and gone for good when deleted."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluvial.adapt.history import History
from fluvial.adapt.keeping import Limits
from fluvial.adapt.naming import name_version
from fluvial.errors import ConflictError, ModelError, NotFoundError
from fluvial.model.checkpoint import open_checkpoint
from fluvial.store import Store
from fluvial.testing import MODEL, make_tensors, open_toy_history
from fluvial.types import Session, Version
from fluvial.version_note import Adopted, ScaledBack
from tests.families import create_random_adapter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path)
    yield store
    store.close()


Open = Callable[[int], History]


@pytest.fixture
def open_history(store: Store, tiny_model: Path) -> Open:
    checkpoint = open_checkpoint(tiny_model)
    return lambda kept: History(
        store, declaration=checkpoint.declaration, checkpoint=checkpoint.sha256, kept=kept
    )


def learn(store: Store, history: History, *, tiny_model: Path) -> Session:
    """Begin a session with one version of its own."""
    checkpoint = open_checkpoint(tiny_model)
    session = store.create_session(
        owner="me", title="t", model="tiny", checkpoint=checkpoint.sha256, learning="on"
    )
    reading = store.create_reading(session, kind="document", name="text", text="words")
    tensors = create_random_adapter(checkpoint.declaration, rank=2, seed=1)
    return history.save(
        session,
        tensors,
        reading=reading,
        tokens_read=1,
        status="done",
        tokens_learned=1,
        updates=1,
        drift=0.1,
    )[0]


@pytest.mark.parametrize(("kept", "from_disk"), [(3, 0), (2, 9)])
def test_as_many_versions_stay_in_memory_as_asked(
    store: Store, open_history: Open, tiny_model: Path, kept: int, from_disk: int
) -> None:
    history = open_history(kept)
    sessions = [learn(store, history, tiny_model=tiny_model) for _ in range(3)]
    before = [history.adapter(session) for session in sessions]
    found = [history.adapter(session) for _ in range(3) for session in sessions]
    read_again = sum(new is not before[n % 3] for n, new in enumerate(found))
    assert read_again == from_disk
    assert [each.key for each in found if each] == [f"{each.id}/1" for each in sessions] * 3


def begin(store: Store, *, owner: str = "me", checkpoint: str = MODEL.sha256) -> Session:
    return store.create_session(
        owner=owner, title="t", model="toy", checkpoint=checkpoint, learning="on"
    )


def save(history: History, session: Session, seed: int, **given: Any) -> tuple[Session, Version]:
    """Save a toy adapter, as the reader does."""
    store = history._store
    reading = store.create_reading(session, kind="document", name="text", text="words")
    return history.save(
        session,
        make_tensors(seed),
        reading=reading,
        tokens_read=1,
        status="done",
        tokens_learned=1,
        updates=1,
        drift=0.05,
        **given,
    )


def test_a_version_tells_where_it_comes_from(store: Store) -> None:
    history = open_toy_history(store)
    session, first = save(history, begin(store), 1, rule='{"rank":1}')
    given: dict[str, Any] = {
        "text_sha256": "7e",
        "skipped": 3,
        "score_before_bpb": 0.9,
        "frozen_bpb": 1.1,
        "scale": 0.5,
        "notes": (ScaledBack(drift=0.5, budget=0.1),),
    }
    session, second = save(history, session, 2, **given)
    assert first == store.version(session, 1)
    assert second == store.version(session, 2)
    assert first.id == name_version(checkpoint=MODEL.sha256, rule='{"rank":1}', sha256=first.sha256)
    assert (first.parents, first.parent, first.origin) == ((), 0, "read")
    assert (second.parents, second.parent) == ((first.id,), 1)
    assert {name: getattr(second, name) for name in given} == given
    restored = history.restore(session, 0)
    _, third = save(history, restored, 2, **given)
    assert (third.parents, third.parent, third.id) == ((), 0, second.id)


def test_the_same_text_from_the_same_state_has_the_same_name(store: Store) -> None:
    history = open_toy_history(store)
    names = {save(history, begin(store), 5, rule="{}")[1].id for _ in range(20)}
    assert len(names) == 1


def test_a_file_that_was_changed_is_refused(store: Store) -> None:
    history = open_toy_history(store, kept=1)
    session, version = save(history, begin(store), 1)
    path = store.version_path(session, 1)
    save(history, begin(store), 2)  # the other one is no longer in memory
    data = path.read_bytes()
    for changed in (data[:-1] + b"\x01", data[:-4], b""):
        path.write_bytes(changed)
        for act in (
            lambda: history.adapter(session),
            lambda: history.read(session, version),
            lambda: history.branch(session, 1, title=""),
        ):
            with pytest.raises(ModelError):
                act()
    path.unlink()
    with pytest.raises(ModelError):
        history.adapter(session)
    assert len(store.sessions(owner="me")) == 2


def test_an_adopted_copy_is_the_same_version_and_stays_when_it_is_taken_back(
    store: Store,
) -> None:
    history = open_toy_history(store)
    notes = (ScaledBack(drift=0.5, budget=0.1),)
    session, version = save(history, begin(store), 1, rule="{}", notes=notes, scale=0.5)
    data = history.read(session, version)
    publication = store.publications.create(session, version, name="a", data=data)
    other, adopted = history.adopt(begin(store, owner="you"), publication)
    assert (adopted.id, adopted.sha256) == (version.id, version.sha256)
    assert (adopted.origin, adopted.notes) == ("adopt", (Adopted(name="a"), *notes))
    assert (adopted.session, adopted.reading, adopted.drift) == (other.id, None, 0.05)
    store.publications.delete("a", owner="me")
    history.forget(session)
    adapter = open_toy_history(store).adapter(other)
    assert adapter is not None
    assert adapter.key == f"{other.id}/1"
    np.testing.assert_equal(dict(adapter.tensors), make_tensors(1))
    with pytest.raises(NotFoundError):
        history.adopt(other, publication)


def test_what_was_learned_on_other_weights_is_not_adopted(store: Store) -> None:
    history = open_toy_history(store)
    session, version = save(history, begin(store), 1)
    data = history.read(session, version)
    publication = store.publications.create(session, version, name="a", data=data)
    other = begin(store, checkpoint="ab" * 32)
    with pytest.raises(ConflictError) as caught:
        history.adopt(other, publication)
    assert caught.value.code == "other_base"
    damaged = replace(publication, version=replace(version, sha256="0" * 64))
    with pytest.raises(ModelError):
        history.adopt(session, damaged)
    assert store.versions(other) == []


def test_tensors_that_do_not_fit_are_not_added(store: Store) -> None:
    history = open_toy_history(store)
    session = begin(store)
    good = make_tensors(1)
    for bad in (
        {},
        {**good, "layers.0.o.b": np.full((1, 4), np.nan, np.float32)},
        {**good, "layers.0.o.b": np.zeros((2, 4), np.float32)},
        {**good, "layers.1.o.b": np.zeros((1, 4), np.float32)},
    ):
        with pytest.raises(ModelError):
            history.add(session, bad, origin="import", parents=(), rule="", drift=None)
    assert store.versions(session) == []


class Dropped(list[tuple[str, str]]):
    """Notes what caches are told to let go of."""

    def __call__(self, keys: Collection[str], *, owner: str) -> None:
        self.extend((key, owner) for key in keys)


def test_what_is_deleted_leaves_memory_and_disk_and_other_caches_hear_of_it(
    store: Store,
) -> None:
    dropped = Dropped()
    history = open_toy_history(store, on_drop=dropped)
    session = begin(store)
    for seed in (1, 2, 3):
        session, _ = save(history, session, seed)
        assert history.adapter(session) is not None
    history.delete(session, 1)
    with pytest.raises(ConflictError):
        history.delete(session, 3)
    assert dropped == [(f"{session.id}/1", "me")]
    for act in (history.load, history.delete, history.restore):
        with pytest.raises(NotFoundError):
            act(session, 1)
    assert not store.version_path(session, 1).exists()
    forgotten = history.forget(session)
    assert sorted(dropped[1:]) == [(f"{session.id}/{n}", "me") for n in (2, 3)]
    assert history.adapter(forgotten) is None
    with pytest.raises(NotFoundError):
        history.adapter(session)
    history.forget(forgotten)
    assert len(dropped) == 3


def test_a_version_that_is_deleted_while_it_is_read_does_not_stay_in_memory(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, _ = save(open_toy_history(store), begin(store), 1)
    history = open_toy_history(store)
    decode = history.decode

    def decode_late(data: bytes) -> Any:
        history.forget(session)
        return decode(data)

    monkeypatch.setattr(history, "decode", decode_late)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            history.load(session, 1)
    assert len(history._cache._adapters) == 0


def test_quotas_hold_while_a_session_reads_on(store: Store) -> None:
    dropped = Dropped()
    size_bytes = save(open_toy_history(store), begin(store), 1)[1].bytes
    limits = Limits(session_bytes=3 * size_bytes, owner_bytes=5 * size_bytes)
    history = open_toy_history(store, limits=limits, on_drop=dropped)
    session = begin(store)
    for seed in range(1, 8):
        session, version = save(history, session, seed)
        kept = [each.number for each in store.versions(session)]
        assert kept == list(range(max(1, seed - 2), seed + 1))
        assert history.adapter(session) is not None
        assert store.version(session, version.number) == version
    assert [key for key, _ in dropped] == [f"{session.id}/{n}" for n in range(1, 5)]
    files = sorted(store.version_path(session, 1).parent.iterdir())
    assert [file.stem for file in files] == ["5", "6", "7"]
    other = begin(store)
    other, _ = save(history, other, 1)
    other, _ = save(history, other, 2)
    # Six of at most five: the oldest that may go is one of the first session.
    assert [each.number for each in store.versions(session)] == [6, 7]
    assert [each.number for each in store.versions(other)] == [1, 2]


def test_a_version_that_can_not_be_kept_is_refused_and_changes_nothing(store: Store) -> None:
    session, version = save(open_toy_history(store), begin(store), 1)
    limits = Limits(session_bytes=version.bytes, owner_bytes=10 * version.bytes)
    history = open_toy_history(store, limits=limits)
    store.pin_version(session, 1, pinned=True)
    session = store.session(session.id, owner="me")
    with pytest.raises(ConflictError) as caught:
        save(history, session, 2)
    assert caught.value.code == "quota_reached"
    assert [each.number for each in store.versions(session)] == [1]
    assert store.session(session.id, owner="me").version == 1
    store.pin_version(session, 1, pinned=False)
    assert [v.number for v in store.versions(save(history, session, 2)[0])] == [2]


def test_a_branch_counts_against_the_owners_quota(store: Store) -> None:
    session, version = save(open_toy_history(store), begin(store), 1)
    limits = Limits(session_bytes=2**40, owner_bytes=2 * version.bytes)
    history = open_toy_history(store, limits=limits)
    branch = history.branch(session, 1, title="")
    assert branch.version == 1
    with pytest.raises(ConflictError):
        history.branch(session, 1, title="")
    assert history.branch(session, 0, title="").version == 0


def test_what_has_passed_its_time_goes_unless_something_keeps_it(store: Store) -> None:
    dropped = Dropped()
    limits = Limits(session_bytes=2**40, owner_bytes=2**40, expiry_s=60.0)
    history = open_toy_history(store, limits=limits, on_drop=dropped)
    session = begin(store)
    for seed in (1, 2, 3):
        session, version = save(history, session, seed)
    assert version.expires_at == pytest.approx(version.created_at + 60.0)
    store.pin_version(session, 1, pinned=True)
    assert history.expire(now=version.created_at) == []
    later = version.created_at + 61.0
    assert [each.number for each in history.expire(now=later)] == [2]
    assert [each.number for each in store.versions(session)] == [1, 3]
    assert dropped == [(f"{session.id}/2", "me")]
    assert history.expire(now=later) == []
