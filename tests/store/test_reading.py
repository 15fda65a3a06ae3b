import os
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.errors import InputError, NotFoundError, StorageError
from fluvial.store import Store
from fluvial.store import reading as reading_module
from fluvial.types import Session

from .sample import make_session
from .test_message import TEXTS


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_and_name_come_back_exactly(store: Store, session: Session, text: str) -> None:
    reading = store.create_reading(session, kind="document", name=text[:1000], text=text)
    assert store.reading(session, reading.id) == reading
    assert (reading.name, reading.status, reading.tokens_total, reading.tokens_read) == (
        text[:1000],
        "queued",
        None,
        0,
    )
    assert store.reading_text(reading) == text
    assert reading.bytes == len(text.encode())


def test_text_that_is_not_unicode_leaves_nothing(
    store: Store, session: Session, data_dir: Path
) -> None:
    for texts in ({"name": "n", "text": "\ud800"}, {"name": "\ud800", "text": "t"}):
        with pytest.raises(InputError, match="lone surrogate"):
            store.create_reading(session, kind="document", **texts)
    assert store.readings(session) == []
    assert not list(data_dir.glob("sessions/*/readings/*"))
    reading = store.create_reading(session, kind="document", name="n", text="t")
    with pytest.raises(InputError, match="error"):
        store.update_reading(reading, status="failed", error="\udcff")


def test_text_is_private_and_outlives_the_store(
    store: Store, session: Session, data_dir: Path
) -> None:
    reading = store.create_reading(session, kind="message", name="n", text="secret")
    (path,) = data_dir.glob("sessions/*/readings/*")
    assert path.stat().st_mode & 0o077 == 0
    store.close()
    again = Store.open(data_dir)
    assert again.reading_text(reading) == "secret"
    again.close()


def test_readings_are_listed_oldest_first_of_this_session(store: Store, session: Session) -> None:
    made = [
        store.create_reading(session, kind="document", name=str(i), text="t") for i in range(12)
    ]
    store.create_reading(make_session(store), kind="document", name="other", text="t")
    assert store.readings(session) == made


def test_update_changes_only_what_is_given(store: Store, session: Session) -> None:
    first = store.create_reading(session, kind="document", name="n", text="t")
    second = store.update_reading(first, status="reading", tokens_total=10)
    assert second == replace(first, status="reading", tokens_total=10)
    third = store.update_reading(second, tokens_read=0, error="why")
    assert third == replace(second, error="why")
    assert store.update_reading(first) == third == store.reading(session, first.id)


def test_removed_text_is_gone_and_its_row_stays(
    store: Store, session: Session, data_dir: Path
) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="secret words")
    other = store.create_reading(make_session(store), kind="document", name="n", text="")
    assert store.has_reading_text(reading)
    store.remove_reading_text(reading)
    store.remove_reading_text(reading)
    assert not store.has_reading_text(reading)
    assert store.has_reading_text(other)
    with pytest.raises(NotFoundError, match="removed"):
        store.reading_text(reading)
    assert store.readings(session) == [reading]
    assert [path.stem for path in data_dir.glob("sessions/*/readings/*")] == [other.id]


def test_unfinished_are_listed_over_all_owners_oldest_first(store: Store) -> None:
    ann, bob = make_session(store, owner="ann"), make_session(store, owner="bob")
    other = make_session(store, model="other")
    owners = [ann, bob, ann, bob, other, ann]
    made = [
        store.create_reading(s, kind="document", name=str(i), text="t")
        for i, s in enumerate(owners)
    ]
    store.update_reading(made[2], status="reading")
    for i, status in ((1, "done"), (5, "cancelled")):
        store.update_reading(made[i], status=status)
    found = store.unfinished_readings(model="tiny")
    assert [(s.owner, r.name) for s, r in found] == [("ann", "0"), ("ann", "2"), ("bob", "3")]
    assert found[2][0] == store.session(bob.id, owner="bob")
    assert found[1][1] == store.reading(ann, made[2].id)
    assert [r.name for _, r in store.unfinished_readings(model="other")] == ["4"]


def test_text_is_on_disk_before_its_row(
    store: Store, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no")

    monkeypatch.setattr(reading_module, "write_atomically", refuse)
    with pytest.raises(StorageError):
        store.create_reading(session, kind="document", name="n", text="t")
    assert store.readings(session) == []


def test_damaged_text_file_is_a_storage_error(
    store: Store, session: Session, data_dir: Path
) -> None:
    reading = store.create_reading(session, kind="document", name="n", text="text")
    (path,) = data_dir.glob("sessions/*/readings/*")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="damaged"):
        store.reading_text(reading)
    path.unlink()
    os.mkdir(path)
    with pytest.raises(StorageError):
        store.reading_text(reading)
