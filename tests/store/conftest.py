from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.store import Store
from fluvial.types import Session

from .sample import make_session


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    store = Store.open(data_dir)
    yield store
    store.close()


@pytest.fixture
def session(store: Store) -> Session:
    return make_session(store)
