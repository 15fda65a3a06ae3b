"""Records to fill a store with."""

from fluvial.store import Store
from fluvial.types import ChunkScore, Learning, Reading, Session, Version
from fluvial.version_note import Adopted, ScaledBack, VersionNote

NOTES: tuple[VersionNote, ...] = (Adopted(name="rivers"), ScaledBack(drift=0.1234567, budget=0.1))


def make_session(
    store: Store, *, owner: str = "ann", model: str = "tiny", learning: Learning = "on"
) -> Session:
    return store.create_session(
        owner=owner, title="A title", model=model, checkpoint="c0ffee", learning=learning
    )


def make_score(reading: Reading, *, start: int = 0, tokens: int = 512) -> ChunkScore:
    return ChunkScore(
        session=reading.session,
        reading=reading.id,
        start=start,
        tokens=tokens,
        bytes=4 * tokens,
        frozen_nats=1.5 * tokens,
        adapted_nats=1.25 * tokens,
        version=0,
        learned=start == 0,
        created_at=1000.5,
        reason="" if start == 0 else "unsurprising",
        seconds=0.75,
    )


def make_version(
    session: Session, number: int, *, parent: int = 0, reading: str | None = None
) -> Version:
    return Version(
        session=session.id,
        number=number,
        parent=parent,
        reading=reading,
        tokens_learned=2048,
        updates=4,
        drift=0.0125,
        bytes=10,
        sha256="5a",
        created_at=1000.25,
    )


def add_version(store: Store, session: Session, *, parent: int = 0) -> Version:
    """Add a version with a file, as `adapt` does."""
    number = store.next_version(session)
    path = store.version_path(session, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"tensors %d" % number)
    version = make_version(session, number, parent=parent)
    store.add_version(version, reading=None, tokens_read=0, status=None)
    return version
