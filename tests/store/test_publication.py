"""Published copies: everyone's to read, their owner's to take back, never changed."""

from dataclasses import replace

import pytest

from fluvial.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    StorageError,
)
from fluvial.store import Store
from fluvial.types import Session

from .sample import NOTES, add_version, make_session, make_version


def test_a_copy_outlives_its_session_and_does_not_tell_of_it(
    store: Store, session: Session
) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="secret")
    version = replace(make_version(session, 1, reading=reading.id), text_sha256="7e", notes=NOTES)
    made = store.publications.create(session, version, name="team.a-1", data=b"copy")
    assert made.version == replace(version, session="", reading=None, text_sha256="")
    assert (made.owner, made.model, made.checkpoint) == ("ann", "tiny", "c0ffee")
    store.delete_session(session)
    assert store.publications.find("team.a-1") == made
    assert store.publications.list_all() == [made]
    assert store.publications.read(made) == b"copy"


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", ".a", "a/b", "../a", "a" * 65, "ä", "a\n"])
def test_names_that_are_none_are_refused(store: Store, session: Session, name: str) -> None:
    version = add_version(store, session)
    with pytest.raises(InputError):
        store.publications.create(session, version, name=name, data=b"x")
    with pytest.raises(NotFoundError):
        store.publications.find(name)
    assert store.publications.list_all() == []


def test_a_name_is_given_once_until_it_is_taken_back(store: Store, session: Session) -> None:
    version = add_version(store, session)
    made = store.publications.create(session, version, name="a", data=b"one")
    folder = store.publications._folder
    for owner in ("ann", "bob"):
        other = make_session(store, owner=owner)
        with pytest.raises(ConflictError) as caught:
            store.publications.create(other, version, name="a", data=b"two")
        assert caught.value.code == "name_taken"
    assert [file.read_bytes() for file in folder.iterdir()] == [b"one"]
    with pytest.raises(ForbiddenError):
        store.publications.delete("a", owner="bob")
    assert store.publications.read(made) == b"one"
    store.publications.delete("a", owner="ann")
    assert list(folder.iterdir()) == []
    with pytest.raises(NotFoundError):
        store.publications.read(made)
    with pytest.raises(NotFoundError):
        store.publications.delete("a", owner="ann")
    assert store.publications.create(session, version, name="a", data=b"three").id != made.id


def test_files_without_a_row_go_at_the_next_start(store: Store, session: Session) -> None:
    made = store.publications.create(session, add_version(store, session), name="a", data=b"one")
    folder = store.publications._folder
    (folder / ("pub_" + "0" * 24 + ".safetensors")).write_bytes(b"half")
    (folder / ".x.tmp").write_bytes(b"half")
    (folder / "mine.txt").write_bytes(b"not ours")
    root = store._root.parent
    store.close()
    again = Store.open(root)
    assert again.publications.read(made) == b"one"
    assert {file.name for file in folder.iterdir()} == {f"{made.id}.safetensors", "mine.txt"}
    again.close()


def test_a_lost_database_does_not_take_published_copies_with_it(
    store: Store, session: Session
) -> None:
    store.publications.create(session, add_version(store, session), name="a", data=b"one")
    store.delete_session(session)
    folder, root = store.publications._folder, store._root.parent
    store.close()
    for file in root.glob("fluvial.sqlite3*"):
        file.unlink()
    with pytest.raises(StorageError) as caught:
        Store.open(root)
    assert caught.value.code == "database_missing"
    assert len(list(folder.iterdir())) == 1
