"""What the service puts on record: every change of a version, and no text of a deleted session."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.errors import StorageError
from fluvial.store.audit_check import read_entries, verify
from fluvial.store.audit_entry import Entry
from fluvial.testing import Rig, make_rig
from fluvial.types import Holding


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = make_rig(tmp_path / "data")
    yield rig
    rig.service.close()


def recorded(folder: Path) -> list[Entry]:
    assert verify(folder / "data").problem is None
    return [entry for entry in read_entries(folder / "data") if entry.kind != "audit.begun"]


def kinds(folder: Path) -> list[str]:
    return [entry.kind for entry in recorded(folder)]


def test_every_act_on_versions_is_on_record_with_its_author(rig: Rig, tmp_path: Path) -> None:
    service = rig.service
    session = service.create_session(owner="ann", title="t")
    service.readings.add(session, name="a", text="some text to learn from " * 40)
    service.start()
    end_s = time.monotonic() + 20
    while not kinds(tmp_path):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    session = service.session(session.id, owner="ann")
    first = service.versions.list_all(session).versions[0]
    service.versions.restore(session, "0")
    service.versions.restore(session, "1")
    service.versions.pin(session, "1", pinned=True)
    service.versions.pin(session, "1", pinned=False)
    branch = service.versions.branch(session, "1")
    service.publications.publish(session, "1", name="mine")
    service.publications.adopt(session, "mine")
    service.publications.withdraw("mine", owner="ann")
    service.exchange.write(session, "1", format="fluvial")
    service.update_session(session, learning="frozen")
    service.update_session(session, learning="on")
    service.versions.delete(service.session(session.id, owner="ann"), "1")
    service.versions.forget(session)
    entries = recorded(tmp_path)
    assert [entry.kind for entry in entries] == [
        "version.created",
        "version.restored",
        "version.restored",
        "version.pinned",
        "version.unpinned",
        "version.branched",
        "version.published",
        "version.created",
        "version.withdrawn",
        "version.exported",
        "session.frozen",
        "session.unfrozen",
        "version.deleted",
        "session.forgotten",
    ]
    assert [entry.actor for entry in entries] == ["system", *["ann"] * 13]
    assert entries[0].subject == session.id
    assert entries[0].detail["sha256"] == first.sha256
    assert entries[1].detail == {"version": 0, "before": 1}
    assert entries[5].detail["branch"] == branch.id
    assert entries[7].detail["origin"] == "adopt"


def test_deleting_a_session_keeps_the_chain_and_no_text(rig: Rig, tmp_path: Path) -> None:
    session = rig.service.create_session(owner="ann", title="a title of hers")
    rig.service.audit.append(
        "guard.refused",
        actor="ann",
        subject=session.id,
        detail={**rig.service.audit.describe("what she wrote", session=session.id)},
    )
    asyncio.run(rig.service.delete_session(session))
    assert kinds(tmp_path) == ["guard.refused", "session.deleted"]
    files = [path for path in (tmp_path / "data" / "audit").rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files)
    assert b"what she wrote" not in everything
    assert b"a title of hers" not in everything


def test_an_act_that_is_not_on_record_is_told_and_done(rig: Rig, tmp_path: Path) -> None:
    session = rig.service.create_session(owner="ann")
    (tmp_path / "data" / "audit" / "lock").unlink()
    (tmp_path / "data" / "audit" / "lock").mkdir()
    with pytest.raises(StorageError, match="this was done, but could not be put") as error:
        rig.service.update_session(session, learning="frozen")
    assert error.value.code == "audit_failed"
    assert rig.service.session(session.id, owner="ann").learning == "frozen"
    held = Holding(
        session=session.id,
        owner="ann",
        number=1,
        bytes=1,
        created_at=0.0,
        pinned=False,
        in_force=False,
        is_parent=False,
    )
    rig.service.record.note_discard(held)  # by the machine itself: logged, not raised
    (tmp_path / "data" / "audit" / "lock").rmdir()
    rig.service.update_session(session, learning="on")
    missed, unfrozen = recorded(tmp_path)
    assert (missed.kind, missed.detail) == ("audit.missed", {"entries": 2})
    assert unfrozen.kind == "session.unfrozen"
