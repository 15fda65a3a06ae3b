import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.errors import ConflictError, InputError, NotFoundError
from fluvial.store import Store
from fluvial.types import Session
from fluvial.version_note import PlainNote

from .sample import NOTES, add_version, make_score, make_session, make_version

WRONG_NUMBERS = [0, 2, -1, 2**63, 2**64 + 1, -(2**70)]


def test_version_session_and_reading_move_together(store: Store, session: Session) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="t")
    number = store.next_version(session)
    version = make_version(session, number, reading=reading.id)
    moved = store.add_version(version, reading=reading, tokens_read=2048, status="done")
    assert moved == replace(session, version=number, updated_at=moved.updated_at)
    assert moved == store.session(session.id, owner="ann")
    assert store.versions(session) == [version]
    assert store.version(session, number) == version
    expected = replace(reading, tokens_read=2048, status="done")
    assert store.reading(session, reading.id) == expected


def test_a_version_that_fails_changes_nothing(store: Store, session: Session) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="t")
    first = add_version(store, session)
    before = store.session(session.id, owner="ann")
    bad = [
        (replace(first, drift=9.0), ConflictError),
        (make_version(session, 0), InputError),
        (make_version(session, -1), InputError),
        (replace(make_version(session, 2), drift=math.nan), InputError),
        (replace(make_version(session, 2), reading="read_gone"), NotFoundError),
        (replace(make_version(session, 2), session="sess_gone"), NotFoundError),
    ]
    for version, error in bad:
        with pytest.raises(error):
            store.add_version(version, reading=reading, tokens_read=7, status="done")
    assert store.session(session.id, owner="ann") == before
    assert store.versions(session) == [first]
    assert store.reading(session, reading.id) == reading


def test_progress_is_rolled_back_with_the_version(store: Store, session: Session) -> None:
    gone = replace(
        store.create_reading(session, kind="document", name="n", text="t"), id="read_" + "0" * 24
    )
    with pytest.raises(NotFoundError):
        store.add_version(make_version(session, 1), reading=gone, tokens_read=7, status=None)
    assert store.versions(session) == []
    assert store.session(session.id, owner="ann").version == 0


def test_numbers_are_never_used_again(store: Store, session: Session) -> None:
    for expected in (1, 2, 3):
        assert add_version(store, session).number == expected
    store.update_session(session, version=0)
    for number in (1, 2, 3):
        store.delete_version(session, number)
    assert store.next_version(session) == 4
    assert store.next_version(session) == 5
    add_version(store, session)
    store.forget(session)
    assert store.next_version(session) == 7
    store.add_version(make_version(session, 20), reading=None, tokens_read=0, status=None)
    assert store.next_version(session) == 21
    assert store.next_version(make_session(store)) == 1


def test_threads_never_get_the_same_number(store: Store, session: Session) -> None:
    numbers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: numbers.extend(store.next_version(session) for _ in range(25))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 101))


def test_restore_puts_an_older_version_in_force(store: Store, session: Session) -> None:
    for _ in range(3):
        add_version(store, session)
    assert store.update_session(session, version=1).version == 1
    assert store.update_session(session, version=0).version == 0
    assert [v.number for v in store.versions(session)] == [1, 2, 3]


@pytest.mark.parametrize("number", WRONG_NUMBERS)
def test_unknown_versions_are_not_found(store: Store, session: Session, number: int) -> None:
    add_version(store, session)
    with pytest.raises(NotFoundError):
        store.version(session, number)
    if number != 0:
        with pytest.raises(NotFoundError):
            store.delete_version(session, number)
    assert [v.number for v in store.versions(session)] == [1]


def test_delete_removes_row_and_file_of_one_version(store: Store, session: Session) -> None:
    for _ in range(3):
        add_version(store, session)
    store.delete_version(session, 2)
    assert [v.number for v in store.versions(session)] == [1, 3]
    assert [store.version_path(session, n).exists() for n in (1, 2, 3)] == [True, False, True]


def test_the_base_is_not_deleted(store: Store, session: Session) -> None:
    add_version(store, session)
    with pytest.raises(NotFoundError, match="is the base"):
        store.delete_version(session, 0)


def test_version_in_force_is_not_deleted(store: Store, session: Session) -> None:
    add_version(store, session)
    with pytest.raises(ConflictError, match="in force") as caught:
        store.delete_version(session, 1)
    assert caught.value.code == "version_in_force"
    with pytest.raises(ConflictError, match="in force"):
        store.delete_version(make_session(store), 0)
    assert store.version_path(session, 1).exists()


def test_forget_removes_what_was_learned_and_keeps_what_was_said(
    store: Store, session: Session
) -> None:
    message = store.append_message(session, role="user", content="hi", version=0)
    reading = store.create_reading(session, kind="document", name="n", text="t")
    store.append_score(make_score(reading))
    add_version(store, session)
    unfinished = store.version_path(session, 9)
    unfinished.write_bytes(b"its row comes next")
    forgotten = store.forget(session)
    assert forgotten.version == 0
    assert forgotten == store.session(session.id, owner="ann")
    assert store.versions(session) == store.scores(session) == []
    assert not store.version_path(session, 1).exists()
    assert unfinished.exists()
    assert store.messages(session) == [message]
    assert store.readings(session) == [reading]
    assert store.reading_text(reading) == "t"


def test_a_pin_is_kept_and_spares_from_all_but_explicit_deletion(
    store: Store, session: Session
) -> None:
    for _ in range(2):
        add_version(store, session)
    pinned = store.pin_version(session, 1, pinned=True)
    assert pinned.pinned
    assert store.version(session, 1) == pinned
    with pytest.raises(ConflictError, match="pinned"):
        store.delete_version(session, 1, spare_pinned=True)
    assert store.version_path(session, 1).exists()
    store.pin_version(session, 1, pinned=False)
    store.pin_version(session, 1, pinned=True)
    store.delete_version(session, 1)
    assert [v.number for v in store.versions(session)] == [2]
    for number in (0, 1, 9, -1, 2**63):
        with pytest.raises(NotFoundError):
            store.pin_version(session, number, pinned=True)


def test_figures_that_are_not_finite_are_refused(store: Store, session: Session) -> None:
    for name in ("drift", "score_before_bpb", "frozen_bpb", "scale"):
        for value in (math.nan, math.inf):
            version = replace(make_version(session, 1), **{name: value})
            with pytest.raises(InputError, match=name):
                store.add_version(version, reading=None, tokens_read=0, status=None)
    bad = replace(make_version(session, 1), notes=(PlainNote(text="\ud800"),))
    with pytest.raises(InputError):
        store.add_version(bad, reading=None, tokens_read=0, status=None)
    assert store.versions(session) == []


def test_without_learning_every_session_shows_as_frozen(data_dir: Path) -> None:
    store = Store.open(data_dir)
    on, frozen = make_session(store), make_session(store, learning="frozen")
    store.create_reading(on, kind="document", name="n", text="t")
    store.close()
    quiet = Store.open(data_dir, learning=False)
    shown = [quiet.session(each.id, owner="ann") for each in (on, frozen)]
    shown += quiet.sessions(owner="ann")
    shown += [session for session, _ in quiet.unfinished_readings(model="tiny")]
    shown += [make_session(quiet), quiet.update_session(on, title="x"), quiet.forget(on)]
    version = make_version(on, 1)
    shown += [quiet.add_version(version, reading=None, tokens_read=0, status=None)]
    shown += [quiet.create_branch(on, title="", version=None, data=b"", messages=())]
    assert {session.learning for session in shown} == {"frozen"}
    with pytest.raises(ConflictError) as caught:
        quiet.update_session(on, learning="on")
    assert caught.value.code == "learning_off"
    quiet.close()
    again = Store.open(data_dir)
    assert again.session(on.id, owner="ann").learning == "on"
    assert again.session(frozen.id, owner="ann").learning == "frozen"
    again.close()


def test_a_branch_is_made_whole_or_not_at_all(
    store: Store, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = replace(add_version(store, session), id="1d", parents=("0d",), notes=NOTES)
    said = [
        store.append_message(session, role="user", content="hi", version=0),
        store.append_message(session, role="assistant", content="oh", version=1, finish="stop"),
    ]
    branch = store.create_branch(
        session, title="B", version=version, data=b"tensors", messages=said
    )
    assert branch == store.session(branch.id, owner="ann")
    assert (branch.title, branch.version, branch.model) == ("B", 1, "tiny")
    (copy,) = store.versions(branch)
    changed = {"session", "origin", "created_at"}
    assert {k: v for k, v in vars(copy).items() if k not in changed} == {
        k: v for k, v in vars(version).items() if k not in changed
    }
    assert copy.origin == "branch"
    assert store.version_path(branch, 1).read_bytes() == b"tensors"
    assert [(m.content, m.version) for m in store.messages(branch)] == [("hi", 0), ("oh", 1)]
    assert store.next_version(branch) == 2
    before = store.sessions(owner="ann")
    folders = sorted(path.name for path in store._root.iterdir())
    for bad in (replace(session, owner="bob"), replace(session, id="sess_" + "0" * 24)):
        with pytest.raises(NotFoundError):
            store.create_branch(bad, title="", version=version, data=b"x", messages=said)
    assert store.sessions(owner="ann") == before
    assert sorted(path.name for path in store._root.iterdir()) == folders
