"""What one owner has is not there for another one, whatever ids and records that one makes up."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from fluvial.errors import NotFoundError
from fluvial.store import UNSET, Store
from fluvial.types import Message, Session

from .sample import add_version, make_score, make_session, make_version


def test_sessions_are_found_and_listed_by_their_owner_only(store: Store) -> None:
    ann, bob = make_session(store, owner="ann"), make_session(store, owner="bob")
    for mine, other in ((ann, bob), (bob, ann)):
        assert store.sessions(owner=mine.owner) == [mine]
        assert store.session(mine.id, owner=mine.owner) == mine
        with pytest.raises(NotFoundError):
            store.session(mine.id, owner=other.owner)
    assert store.sessions(owner="eve") == store.sessions(owner="") == []
    with pytest.raises(NotFoundError):
        store.session(ann.id, owner="an%")


TURN = [Message(role="user", content="x")]
WRITES: list[Callable[[Store, Session], object]] = [
    lambda store, s: store.update_session(s, title="x"),
    lambda store, s: store.update_session(s, version=0),
    lambda store, s: store.delete_session(s),
    lambda store, s: store.append_message(s, role="user", content="x", version=0),
    lambda store, s: store.append_turn(s, messages=TURN, parent=UNSET, version=0),
    lambda store, s: store.create_reading(s, kind="document", name="n", text="x"),
    lambda store, s: store.next_version(s),
    lambda store, s: store.delete_version(s, 1),
    lambda store, s: store.forget(s),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_record_with_another_owner_changes_nothing(
    store: Store, write: Callable[[Store, Session], object]
) -> None:
    session = make_session(store, owner="ann")
    add_version(store, session)
    session = store.update_session(session, version=0)
    files = sorted(store.version_path(session, 1).parent.parent.rglob("*.*"))
    with pytest.raises(NotFoundError):
        write(store, replace(session, owner="bob"))
    assert store.session(session.id, owner="ann") == session
    assert store.messages(session) == store.readings(session) == []
    assert [v.number for v in store.versions(session)] == [1]
    assert sorted(store.version_path(session, 1).parent.parent.rglob("*.*")) == files
    assert store.next_version(session) == 2


def test_children_are_reached_through_their_own_session_only(store: Store) -> None:
    ann, bob = make_session(store, owner="ann"), make_session(store, owner="bob")
    reading = store.create_reading(ann, kind="document", name="n", text="secret")
    message = store.append_message(ann, role="user", content="secret", version=0)
    store.append_score(make_score(reading))
    add_version(store, ann)
    stolen_reading, stolen_message = (
        replace(reading, session=bob.id),
        replace(message, session=bob.id),
    )
    attempts = [
        lambda: store.reading(bob, reading.id),
        lambda: store.version(bob, 1),
        lambda: store.update_session(bob, version=1),
        lambda: store.delete_version(bob, 1),
        lambda: store.reading_text(stolen_reading),
        lambda: store.update_reading(stolen_reading, status="cancelled"),
        lambda: store.update_message(stolen_message, content="x"),
        lambda: store.add_version(
            make_version(bob, 9), reading=reading, tokens_read=1, status="done"
        ),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError):
            attempt()
    store.truncate_scores(stolen_reading, start=0)
    store.remove_reading_text(stolen_reading)
    store.forget(bob)
    assert len(store.scores(ann)) == len(store.versions(ann)) == 1
    assert store.reading_text(reading) == "secret"
    assert store.reading(ann, reading.id) == reading
    assert store.messages(ann) == [message]
    assert store.messages(bob) == store.readings(bob) == store.scores(bob) == []
