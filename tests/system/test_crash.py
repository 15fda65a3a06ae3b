"""The server is killed at random moments while it reads: it goes on as if that had not been."""

import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest

from fluvial.model.adapter_file import hash_bytes
from fluvial.store.store import Store
from tests.system.live import Live, run_live

PATIENCE_S = 120


@pytest.fixture
def frequent_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have many versions, and so many moments that matter."""
    monkeypatch.setenv("FLUVIAL_VERSION_TOKENS", "512")


@pytest.mark.usefixtures("frequent_versions")
def test_a_server_killed_twice_learns_what_an_undisturbed_one_does(own_data: Path) -> None:
    _compare(own_data, kills=2)


@pytest.mark.slow
@pytest.mark.usefixtures("frequent_versions")
def test_a_server_killed_a_hundred_times_learns_the_same(own_data: Path) -> None:
    _compare(own_data, kills=100)


def _compare(data_dir: Path, *, kills: int) -> None:
    rng = random.Random(4)
    rounds = list(range(1 + kills // 10))
    with run_live(data_dir) as live:
        calm = live.create_session()
        for seed in rounds:
            _read(live, calm, seed)
        expected = _describe(live, calm)
        killed = live.create_session()
    assert len(expected[0]) > 10
    for number in range(kills):
        with run_live(data_dir) as live:
            if number % 10 == 0:
                _queue(live, killed, number // 10)
            time.sleep(rng.random() * 1.5)
            live.process.kill()
    with run_live(data_dir) as live:
        for seed in rounds[len(range(0, kills, 10)) :]:
            _queue(live, killed, seed)
        _wait(live, killed, texts=len(rounds))
        assert _describe(live, killed) == expected
    _assert_files(data_dir)


def _write(seed: int) -> str:
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdeirt", k=rng.randint(2, 7))) for _ in range(60)]
    return " ".join(rng.choices(words, k=4000))


def _queue(live: Live, session: str, seed: int) -> None:
    body = {"name": f"text {seed}", "text": _write(seed)}
    assert live.client.post(f"/v1/sessions/{session}/readings", json=body).status_code == 202


def _read(live: Live, session: str, seed: int) -> None:
    _queue(live, session, seed)
    _wait(live, session)


def _wait(live: Live, session: str, *, texts: int = 1) -> None:
    deadline = time.monotonic() + PATIENCE_S * texts
    while time.monotonic() < deadline:
        readings = _get(live, f"{session}/readings")
        if all(each["status"] == "done" for each in readings):
            return
        assert not any(each["status"] == "failed" for each in readings)
        time.sleep(0.1)
    raise AssertionError("the reading did not end")


def _describe(live: Live, session: str) -> tuple[list[Any], list[Any]]:
    """Return what was learned, and the scores, each token once."""
    versions = [
        (each["id"], each["tokens_learned"], each["drift"], each["text_sha256"])
        for each in _get(live, f"{session}/versions")
    ]
    order = [each["id"] for each in _get(live, f"{session}/readings")]
    scores = sorted(
        (order.index(s["reading"]), s["start"], s["tokens"], *_bits(s))
        for s in _get(live, f"{session}/scores")
    )
    for index, reading in enumerate(_get(live, f"{session}/readings")):
        mine = [score for score in scores if score[0] == index]
        ends = list(itertools.accumulate(score[2] for score in mine))
        assert [score[1] for score in mine] == [0, *ends[:-1]]
        assert ends[-1] == reading["tokens_total"]
    return versions, scores


def _bits(score: dict[str, Any]) -> tuple[float, float]:
    return score["frozen_bits_per_byte"], score["adapted_bits_per_byte"]


def _get(live: Live, path: str) -> list[dict[str, Any]]:
    return live.client.get(f"/v1/sessions/{path}").json()["data"]


def _assert_files(data_dir: Path) -> None:
    """Every version's file is what its row says."""
    store = Store.open(data_dir)
    try:
        for session in store.sessions(owner="local"):
            for version in store.versions(session):
                data = store.version_path(session, version.number).read_bytes()
                assert hash_bytes(data) == version.sha256
    finally:
        store.close()
