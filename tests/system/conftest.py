"""One live server on the tiny model, for all tests that leave it as it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.live import Live, install, run_live


@pytest.fixture(scope="session")
def tiny_data(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, native_library: Path
) -> Path:
    """A data folder with the tiny model installed."""
    data_dir = tmp_path_factory.mktemp("live")
    install(data_dir, tiny_model)
    return data_dir


@pytest.fixture(scope="session")
def live(tiny_data: Path) -> Iterator[Live]:
    with run_live(tiny_data) as running:
        yield running


@pytest.fixture
def own_data(tmp_path: Path, tiny_model: Path, native_library: Path) -> Path:
    """A data folder of the test's own, with the tiny model installed."""
    install(tmp_path / "data", tiny_model)
    return tmp_path / "data"
