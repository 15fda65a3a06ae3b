import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluvial.store import Store
from fluvial.types import Session

from .sample import make_session


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose tables are made already: that takes longer than most of the tests."""
    folder = tmp_path_factory.mktemp("empty") / "data"
    Store.open(folder).close()
    return folder


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data_dir: Path, empty_folder: Path) -> Iterator[Store]:
    shutil.copytree(empty_folder, data_dir)
    store = Store.open(data_dir)
    yield store
    store.close()


@pytest.fixture
def session(store: Store) -> Session:
    return make_session(store)
