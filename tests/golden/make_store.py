"""Makes `store-<tables>/`, a data folder that later versions must still open.

Run it once, when a migration is added, and never again for the same tables:
    python tests/golden/make_store.py
"""

import sys
from dataclasses import asdict
from json import dumps
from pathlib import Path

from fluvial.store import Store, write_atomically
from fluvial.store.migration import HEAD
from fluvial.types import ChunkScore, GuardNote, Message, PassageNote, Reading, Session, Version
from fluvial.version_note import Adopted, ScaledBack


def make(folder: Path) -> None:
    """Fill a new store in `folder`, and write what is in it to `expected.json` beside it."""
    store = Store.open(folder)
    for owner in ("ann", "bob"):
        _fill(store, owner=owner)
    expected = {owner: describe(store, owner=owner) for owner in ("ann", "bob")}
    store.close()
    for name in ("lock", "reserve"):
        (folder / name).unlink()
    (folder / "expected.json").write_text(dumps(expected, indent=1) + "\n", encoding="utf-8")


def describe(store: Store, *, owner: str) -> list[dict[str, object]]:
    """Read everything that an owner has, as plain values."""
    return [
        {
            "session": asdict(session),
            "messages": [asdict(message) for message in store.messages(session)],
            "readings": [asdict(reading) for reading in store.readings(session)],
            "texts": [store.reading_text(reading) for reading in store.readings(session)],
            "scores": [[index, asdict(score)] for index, score in store.scores(session)],
            "versions": [asdict(version) for version in store.versions(session)],
            "tensors": [
                store.version_path(session, version.number).read_bytes().hex()
                for version in store.versions(session)
            ],
            "published": [
                [publication.name, asdict(publication), store.publications.read(publication).hex()]
                for publication in store.publications.list_all()
                if publication.owner == owner
            ],
        }
        for session in store.sessions(owner=owner)
    ]


def _fill(store: Store, *, owner: str) -> None:
    session = store.create_session(
        owner=owner, title="Flüsse 河流", model="tiny", checkpoint="c0ffee", learning="on"
    )
    hi = [
        Message(role="system", content="be brief"),
        Message(role="user", content="שלום 😀\x00\r\n"),
    ]
    reading = store.create_reading(session, kind="document", name="河.md", text="河\r\n" * 3)
    notes = [PassageNote(reading=reading.id, name=reading.name, tokens=7)]
    _, answer = store.append_turn(session, messages=hi, parent=None, version=0, passages=notes)
    noted = GuardNote(action="redact", category="email", message="河")
    store.update_message(answer, content="hello", finish="stop", guard=noted)
    store.update_reading(reading, tokens_total=1024)
    for i in (0, 1):
        _learn(store, session, reading, start=512 * i, parent=i)
    store.update_session(session, version=1, learning="frozen")
    late = store.create_reading(session, kind="message", name="", text="late")
    store.update_reading(late, status="failed", error="no tokens")


def _learn(store: Store, session: Session, reading: Reading, *, start: int, parent: int) -> None:
    score = ChunkScore(
        session=session.id,
        reading=reading.id,
        start=start,
        tokens=512,
        bytes=2000,
        frozen_nats=1400.25,
        adapted_nats=1300.125,
        version=parent,
        learned=parent == 0,
        created_at=1795311927.5,
        reason="unsurprising" if parent else "",
        seconds=1.25,
    )
    store.append_score(score)
    number = store.next_version(session)
    write_atomically(store.version_path(session, number), b"tensors %d" % number)
    version = Version(
        session=session.id,
        number=number,
        parent=parent,
        reading=reading.id,
        tokens_learned=512,
        updates=1,
        drift=0.001,
        bytes=9,
        sha256="5a",
        created_at=1795311927.75,
        id=f"{number}d" * 32,
        parents=("1d" * 32,) if parent else (),
        text_sha256="7e" * 32,
        skipped=2,
        score_before_bpb=0.94,
        frozen_bpb=1.01,
        scale=0.5,
        notes=(ScaledBack(drift=0.0625, budget=0.04), Adopted(name="河")),
        rule='{"rank":8}',
        pinned=parent == 0,
        expires_at=1895311927.75,
    )
    done = "done" if start else "reading"
    store.add_version(version, reading=reading, tokens_read=start + 512, status=done)
    store.publications.create(session, version, name=f"{session.owner}-{number}", data=b"copy")


if __name__ == "__main__":
    target = Path(__file__).parent / f"store-{HEAD}"
    if target.exists():
        sys.exit(f"{target} is there already; a golden file is never made again")
    make(target)
