"""Versions in memory: those of answers under way stay, so that no token waits for the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fluvial.adapt.history import History
from fluvial.model.checkpoint import open_checkpoint
from fluvial.store import Store
from fluvial.types import Session
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
