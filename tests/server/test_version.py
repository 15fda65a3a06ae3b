"""Versions over HTTP: listed, put in force, exported, deleted, forgotten."""

import pytest

from tests.server.conftest import Running


@pytest.fixture
def learned(server: Running) -> tuple[Running, str]:
    """A server and the path of a session with two versions."""
    path = f"/v1/sessions/{server.create_session()}"
    for number in (1, 2):
        body = {"name": f"{number}.txt", "text": "Rivers carve valleys. " * 10}
        server.client.post(f"{path}/readings", json=body)
        server.wait_for(path, lambda found, number=number: found["version"] == number)
    return server, path


def test_versions_are_listed_oldest_first(learned: tuple[Running, str]) -> None:
    server, path = learned
    found = server.client.get(f"{path}/versions").json()
    assert found["current"] == 2
    assert [(v["number"], v["parent"]) for v in found["data"]] == [(1, 0), (2, 1)]
    assert set(found["data"][0]) == {
        *("number", "parent", "reading", "tokens_learned", "updates", "drift"),
        *("bytes", "sha256", "created_at"),
    }


def test_any_version_and_the_base_can_be_put_in_force(learned: tuple[Running, str]) -> None:
    server, path = learned
    for number in (1, 0, 2):
        answer = server.client.post(f"{path}/versions/{number}/restore")
        assert answer.json()["version"] == number
        assert server.client.get(f"{path}/versions").json()["current"] == number
    for number in (3, -1, 2**70):
        assert server.client.post(f"{path}/versions/{number}/restore").status_code == 404
    answer = server.client.post(f"{path}/versions/two/restore")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "number")


def test_restoring_stops_readings_under_way(learned: tuple[Running, str]) -> None:
    server, path = learned
    server.rig.reader.hold = True
    server.client.post(f"{path}/readings", json={"name": "3.txt", "text": "More. " * 50})
    server.wait_for(f"{path}/readings", lambda found: found["data"][-1]["status"] == "reading")
    server.client.post(f"{path}/versions/1/restore")
    assert server.client.get(f"{path}/readings").json()["data"][-1]["status"] == "cancelled"
    assert server.client.get(path).json()["version"] == 1


def test_a_version_can_be_exported(learned: tuple[Running, str]) -> None:
    server, path = learned
    answer = server.client.get(f"{path}/versions/1/export")
    assert answer.content == b"tensors"
    assert ".safetensors" in answer.headers["content-disposition"]
    assert server.client.get(f"{path}/versions/0/export").status_code == 404
    assert server.client.get(f"{path}/versions/9/export").status_code == 404


def test_the_version_in_force_can_not_be_deleted(learned: tuple[Running, str]) -> None:
    server, path = learned
    assert server.client.delete(f"{path}/versions/1").status_code == 204
    assert server.client.delete(f"{path}/versions/1").status_code == 404
    refused = server.client.delete(f"{path}/versions/2")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_in_force")
    assert server.client.delete(f"{path}/versions/0").status_code == 404


def test_everything_learned_can_be_forgotten(learned: tuple[Running, str]) -> None:
    server, path = learned
    assert server.client.delete(f"{path}/versions").json()["version"] == 0
    assert server.client.get(f"{path}/versions").json() == {
        "object": "list",
        "current": 0,
        "data": [],
    }
    assert server.client.get(f"{path}/scores").json()["data"] == []
