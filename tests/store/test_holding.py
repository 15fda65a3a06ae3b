"""What versions take, and what speaks for keeping each."""

from dataclasses import replace

from fluvial.store import Store
from fluvial.types import Session

from .sample import make_session, make_version


def add(store: Store, session: Session, number: int, **changes: object) -> None:
    path = store.version_path(session, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    version = replace(make_version(session, number, parent=number - 1), **changes)  # type: ignore[arg-type]
    store.add_version(version, reading=None, tokens_read=0, status=None)


def test_an_owners_versions_are_listed_oldest_first(store: Store, session: Session) -> None:
    other, theirs = make_session(store), make_session(store, owner="bob")
    for number in (1, 2, 3):
        add(store, session, number, bytes=number, created_at=10.0 * number)
    add(store, other, 1, created_at=15.0)
    add(store, theirs, 1, created_at=1.0)
    store.pin_version(session, 1, pinned=True)
    held = store.holdings.list_owned(owner="ann")
    assert [(h.session, h.number) for h in held] == [
        (session.id, 1),
        (other.id, 1),
        (session.id, 2),
        (session.id, 3),
    ]
    flags = [(h.pinned, h.in_force, h.is_parent) for h in held]
    assert flags == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, True, False),
    ]
    assert all(type(each) is bool for row in flags for each in row)
    assert store.holdings.count_bytes(session=session.id) == 6
    assert store.holdings.count_bytes(session="sess_none") == 0
    store.update_session(session, version=0)
    held = store.holdings.list_owned(owner="ann")
    assert not any(h.in_force or h.is_parent for h in held if h.session == session.id)


def test_what_has_passed_its_time_is_listed_unless_something_keeps_it(
    store: Store, session: Session
) -> None:
    theirs = make_session(store, owner="bob")
    for number, expires_at in [(1, 5.0), (2, None), (3, 7.0), (4, 50.0), (5, 6.0), (6, 6.0)]:
        add(store, session, number, expires_at=expires_at)
    add(store, theirs, 1, expires_at=5.0)
    add(store, theirs, 2, expires_at=5.0)
    store.pin_version(session, 5, pinned=True)
    gone = store.holdings.list_expired(now=7.0)
    assert {(h.owner, h.number) for h in gone} == {("ann", 1), ("ann", 3), ("bob", 1)}
    assert store.holdings.list_expired(now=4.9) == []
