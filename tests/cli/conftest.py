"""A scripted server, and settings that lead nowhere else."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.api import Api, run_api


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with run_api() as server:
        monkeypatch.setenv("FLUVIAL_PORT", server.url.rpartition(":")[2])
        yield server


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLUVIAL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("fluvial.cli.read.POLL_S", 0.0)
