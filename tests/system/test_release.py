"""Production from start to end: a release of what runs, an address for others, an end."""

import time
from pathlib import Path

import httpx2

from fluvial.gate import key
from fluvial.gate.result import Adaptation
from fluvial.gate.signing import sign
from fluvial.store.audit_check import read_entries, verify
from tests.gate.made import make_plan, make_results, make_risk
from tests.system.live import launch, run_live

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what is to be allowed under a release alone
DAY_S = 86_400.0


def ask(client: httpx2.Client) -> httpx2.Response:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    return client.post("/v1/chat/completions", json=body)


def refuse(data_dir: Path, *options: str) -> str:
    """Return what a server says that must not start."""
    process = launch(data_dir, *options)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1, said
    return said


def test_a_release_opens_the_door_and_its_end_closes_it(own_data: Path, tmp_path: Path) -> None:
    with run_live(own_data) as live:
        told = live.client.get("/v1/models").json()["data"][0]["fluvial"]
        assert told["release"]["status"] == "not released"
    said = refuse(own_data, "--host", EVERYWHERE)
    assert "not released" in said

    public = key.generate(tmp_path / "key")
    release = tmp_path / "release.json"
    options = ("--mode", "production", "--release", str(release), "--release-key", str(public))
    assert "no file at" in refuse(own_data, *options)
    results = make_results(
        make_plan(make_risk()),
        subjects=told["subjects"],
        adaptation=Adaptation(drift_budget=told["adaptation"]["drift_budget"]),
    )
    signer = key.load_private(tmp_path / "key")
    now_s = time.time()
    release.write_bytes(sign(results, signer=signer, now=now_s, days=40 / DAY_S))

    config = tmp_path / "fluvial.toml"
    config.write_text('api_key = "correct horse battery"\n')
    with run_live(own_data, *options, "--host", EVERYWHERE, "--config", str(config)) as live:
        port = live.url.rpartition(":")[2]
        headers = {"authorization": "Bearer correct horse battery", "host": "fluvial.example"}
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60
        ) as client:
            assert client.get("/healthz").json()["release"]["status"] == "released"
            assert ask(client).status_code == 200
            time.sleep(max(0.0, now_s + 40.5 - time.time()))
            answer = ask(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "release_expired")
            assert client.get("/healthz").json()["release"]["status"] == "not released"
    assert "the release expired" in refuse(own_data, *options)

    assert verify(own_data).problem is None
    kinds = [entry.kind for entry in read_entries(own_data)]
    assert kinds[1:] == [
        *("server.started", "server.stopped"),
        "release.refused",
        *("release.accepted", "server.started", "key.set", "server.stopped"),
        "release.refused",
    ]
