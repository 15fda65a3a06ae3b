import math
import time
from dataclasses import replace

import pytest

from fluvial.errors import InputError, NotFoundError
from fluvial.store import UNSET, Store
from fluvial.store.clock import Clock
from fluvial.types import Message, Session

from .sample import add_version, make_score, make_session

HOSTILE_IDS = [
    "",
    "sess_",
    "sess_" + "0" * 24,
    "sess_" + "0" * 23 + "\n",
    "sess_../../../../../etc/a",
    "../x",
    "\ud800",
    "sess_\x00",
    "' OR 1=1 --",
    "x" * 100_000,
]


def test_session_comes_back_as_it_was_made(store: Store) -> None:
    before_s = time.time()
    made = make_session(store, owner="ann")
    assert made.id.startswith("sess_")
    assert made.version == 0
    assert before_s <= made.created_at == made.updated_at
    assert store.session(made.id, owner="ann") == made


@pytest.mark.parametrize("id", HOSTILE_IDS)
def test_unknown_and_hostile_ids_are_not_found(store: Store, session: Session, id: str) -> None:
    with pytest.raises(NotFoundError):
        store.session(id, owner=session.owner)
    with pytest.raises(NotFoundError):
        store.reading(session, id)


def test_messages_about_hostile_ids_can_be_sent(store: Store) -> None:
    with pytest.raises(NotFoundError) as caught:
        store.session("\ud800", owner="ann")
    caught.value.message.encode()


def test_list_has_the_last_updated_first_and_pages_are_complete(store: Store) -> None:
    made = [make_session(store) for _ in range(7)]
    store.append_message(made[2], role="user", content="hi", version=0)
    expected = [made[i].id for i in (2, 6, 5, 4, 3, 1, 0)]
    assert [s.id for s in store.sessions(owner="ann")] == expected
    pages: list[str] = []
    before = None
    while page := store.sessions(owner="ann", limit=3, before=before):
        pages += [s.id for s in page]
        before = page[-1].updated_at
    assert pages == expected


@pytest.mark.parametrize("limit", [0, -1])
def test_list_refuses_limits_that_make_no_sense(store: Store, limit: int) -> None:
    with pytest.raises(InputError, match="limit"):
        store.sessions(owner="ann", limit=limit)


def test_list_takes_any_time_but_nan(store: Store, session: Session) -> None:
    assert store.sessions(owner="ann", before=math.inf, limit=10**30) == [session]
    assert store.sessions(owner="ann", before=-math.inf) == []
    with pytest.raises(InputError, match="NaN"):
        store.sessions(owner="ann", before=math.nan)


def test_update_changes_only_what_is_given(store: Store, session: Session) -> None:
    titled = store.update_session(session, title="Ein Fluss 河")
    assert titled == replace(session, title="Ein Fluss 河", updated_at=titled.updated_at)
    frozen = store.update_session(session, learning="frozen")
    assert frozen == replace(titled, learning="frozen", updated_at=frozen.updated_at)
    assert frozen.updated_at > titled.updated_at > session.updated_at
    assert store.session(session.id, owner="ann") == frozen


@pytest.mark.parametrize("number", [1, -1, 2**63, -(2**70)])
def test_update_refuses_a_version_that_is_not_there(
    store: Store, session: Session, number: int
) -> None:
    with pytest.raises(NotFoundError, match="no version"):
        store.update_session(session, title="changed", version=number)
    assert store.session(session.id, owner="ann") == session


def test_text_that_is_not_unicode_is_refused(store: Store, session: Session) -> None:
    for field in ("title", "model", "owner", "checkpoint"):
        texts = {"owner": "a", "title": "t", "model": "m", "checkpoint": "c", field: "x\udc00"}
        with pytest.raises(InputError, match=f"{field} .* character 1"):
            store.create_session(**texts, learning="on")
    with pytest.raises(InputError, match="title"):
        store.update_session(session, title="\ud800")
    with pytest.raises(InputError, match="owner"):
        store.session(session.id, owner="\ud800")


def test_delete_removes_rows_and_files_of_this_session_only(store: Store) -> None:
    gone, kept = make_session(store), make_session(store)
    for session in (gone, kept):
        store.append_message(session, role="user", content="hi", version=0)
        reading = store.create_reading(session, kind="document", name="n", text="text")
        store.append_score(make_score(reading))
        add_version(store, session)
    store.delete_session(gone)
    assert [s.id for s in store.sessions(owner="ann")] == [kept.id]
    lists = [store.messages, store.readings, store.scores, store.versions]
    assert [len(rows(gone)) for rows in lists] == [0, 0, 0, 0]
    assert [len(rows(kept)) for rows in lists] == [1, 1, 1, 1]
    assert not store.version_path(gone, 1).parent.parent.exists()
    assert store.version_path(kept, 1).read_bytes() == b"tensors 1"
    assert store.reading_text(store.readings(kept)[0]) == "text"


def test_nothing_can_be_added_to_a_deleted_session(store: Store, session: Session) -> None:
    message = store.append_message(session, role="user", content="hi", version=0)
    reading = store.create_reading(session, kind="document", name="n", text="text")
    version = add_version(store, session)
    store.delete_session(session)
    turn = [Message(role="user", content="hi")]
    attempts = [
        lambda: store.update_session(session, title="t"),
        lambda: store.delete_session(session),
        lambda: store.append_message(session, role="user", content="x", version=0),
        lambda: store.append_turn(session, messages=turn, parent=UNSET, version=0),
        lambda: store.update_message(message, content="x"),
        lambda: store.create_reading(session, kind="document", name="n", text="x"),
        lambda: store.update_reading(reading, status="done"),
        lambda: store.append_score(make_score(reading)),
        lambda: store.next_version(session),
        lambda: store.add_version(version, reading=reading, tokens_read=1, status="done"),
        lambda: store.delete_version(session, 1),
        lambda: store.forget(session),
        lambda: store.version(session, 1),
        lambda: store.reading(session, reading.id),
        lambda: store.reading_text(reading),
    ]
    for attempt in attempts:
        with pytest.raises(NotFoundError):
            attempt()
    store.remove_reading_text(reading)
    assert not list(store.version_path(session, 1).parent.parent.glob("readings/*"))


def test_clock_never_gives_a_time_twice_nor_an_earlier_one() -> None:
    future_s = time.time() + 1000
    clock = Clock(after=future_s)
    times = [clock.now() for _ in range(1000)]
    assert times[0] > future_s
    assert all(a < b for a, b in zip(times, times[1:], strict=False))
