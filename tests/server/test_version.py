"""Versions over HTTP: listed, put in force, exported, deleted, forgotten."""

import hashlib
from typing import Any

import httpx2
import pytest

from fluvial.adapt.keeping import Limits
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
        *("number", "id", "short", "parent", "parents", "origin", "reading", "text_sha256"),
        *("tokens_learned", "updates", "skipped", "score_before_bits_per_byte"),
        *("frozen_bits_per_byte", "drift", "scale", "note", "notes", "rule", "pinned"),
        *("expires_at", "bytes", "sha256", "created_at"),
    }
    first, second = found["data"]
    assert first["short"] == first["id"][:12]
    assert (first["parents"], second["parents"]) == ([], [first["id"]])
    assert found["bytes"] == first["bytes"] + second["bytes"]
    assert (found["limit_bytes"], found["drift_budget"]) == (512 * 2**20, 0.04)


def test_any_version_and_the_base_can_be_put_in_force(learned: tuple[Running, str]) -> None:
    server, path = learned
    for number in (1, 0, 2):
        answer = server.client.post(f"{path}/versions/{number}/restore")
        assert answer.json()["version"] == number
        assert server.client.get(f"{path}/versions").json()["current"] == number
    for number in (3, -1, 2**70):
        assert server.client.post(f"{path}/versions/{number}/restore").status_code == 404
    answer = server.client.post(f"{path}/versions/two/restore")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "version")


def test_a_version_is_named_by_number_id_or_its_beginning(learned: tuple[Running, str]) -> None:
    server, path = learned
    first = server.client.get(f"{path}/versions").json()["data"][0]
    for handle in ("1", first["id"], first["short"], first["id"][:11]):
        if not handle.isdecimal() or handle == "1":
            assert server.client.get(f"{path}/versions/{handle}").json() == first
    # An id's beginning that looks like a number is one, so it is looked for as such.
    for handle in ("0", "00", "7", "ffffffffffff", "f" * 64):
        assert server.client.get(f"{path}/versions/{handle}").status_code == 404
    for handle in ("abc", "F" * 12, "f" * 65, "1.0", "one", "%20", "1e3"):
        assert server.client.get(f"{path}/versions/{handle}").status_code == 400


def test_an_id_that_two_versions_have_is_ambiguous(server: Running) -> None:
    path = f"/v1/sessions/{server.create_session()}"
    for _ in range(2):  # the same text from the same state: the same bits, so the same id
        server.client.post(f"{path}/readings", json={"name": "a", "text": "Rivers. " * 10})
        server.wait_for(path, lambda found: found["version"] > 0)
        assert server.client.post(f"{path}/versions/0/restore").status_code == 200
    one, two = server.client.get(f"{path}/versions").json()["data"]
    assert (one["id"], one["number"], two["number"]) == (two["id"], 1, 2)
    refused = server.client.get(f"{path}/versions/{one['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "version_ambiguous")
    assert server.client.get(f"{path}/versions/2").json() == two


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
    first = server.client.get(f"{path}/versions/1").json()
    assert hashlib.sha256(answer.content).hexdigest() == first["sha256"]
    assert ".safetensors" in answer.headers["content-disposition"]
    assert answer.headers["fluvial-loss"] == "0"
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
        "drift_budget": 0.04,
        "bytes": 0,
        "limit_bytes": 512 * 2**20,
        "data": [],
    }
    assert server.client.get(f"{path}/scores").json()["data"] == []


def refuse(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def test_deleting_reaches_the_caches(learned: tuple[Running, str]) -> None:
    server, path = learned
    id = path.rsplit("/", 1)[-1]
    server.client.delete(f"{path}/versions/1")
    assert server.rig.engine.forgotten_adapters == [(f"{id}/1", "local")]
    server.client.delete(f"{path}/versions")
    assert server.rig.engine.forgotten_adapters[1:] == [(f"{id}/2", "local")]


def test_deleting_a_session_reaches_the_caches(learned: tuple[Running, str]) -> None:
    server, path = learned
    id = path.rsplit("/", 1)[-1]
    assert server.client.delete(path).status_code == 204
    assert server.rig.engine.forgotten == [id]
    assert server.rig.engine.forgotten_adapters == [(f"{id}/{n}", "local") for n in (1, 2)]


def test_a_version_can_be_pinned_and_unpinned(learned: tuple[Running, str]) -> None:
    server, path = learned
    for pinned in (True, False):
        answer = server.client.patch(f"{path}/versions/1", json={"pinned": pinned})
        assert (answer.status_code, answer.json()["pinned"]) == (200, pinned)
        assert server.client.get(f"{path}/versions/1").json()["pinned"] is pinned
    for body in ({}, {"pinned": "yes"}, {"pinned": None}, {"pinned": True, "x": 1}):
        assert server.client.patch(f"{path}/versions/1", json=body).status_code == 400
    for handle in ("0", "9"):
        answer = server.client.patch(f"{path}/versions/{handle}", json={"pinned": True})
        assert answer.status_code == 404


def test_freezing_pins_the_version_in_force(learned: tuple[Running, str]) -> None:
    server, path = learned
    server.client.patch(path, json={"learning": "frozen"})
    pinned = [v["pinned"] for v in server.client.get(f"{path}/versions").json()["data"]]
    assert pinned == [False, True]
    server.client.patch(path, json={"learning": "on"})
    assert server.client.get(f"{path}/versions/2").json()["pinned"] is True


def test_a_branch_has_a_copy_in_force_and_goes_its_own_way(learned: tuple[Running, str]) -> None:
    server, path = learned
    id = path.rsplit("/", 1)[-1]
    server.say(id, "hello")
    body = {"title": "Aside", "messages": True}
    answer = server.client.post(f"{path}/versions/1/branch", json=body)
    assert answer.status_code == 201
    branch = answer.json()
    assert (branch["title"], branch["version"]) == ("Aside", 1)
    there = f"/v1/sessions/{branch['id']}"
    (copy,) = server.client.get(f"{there}/versions").json()["data"]
    source = server.client.get(f"{path}/versions/1").json()
    assert (copy["id"], copy["sha256"]) == (source["id"], source["sha256"])
    assert (copy["origin"], copy["parent"], copy["reading"]) == ("branch", 0, None)
    said, copied = (server.client.get(f"{p}/messages").json()["data"] for p in (path, there))
    assert [m["content"] for m in copied] == [m["content"] for m in said] != []
    assert not {m["id"] for m in copied} & {m["id"] for m in said}
    assert server.client.delete(path).status_code == 204
    assert server.client.get(f"{there}/versions/1/export").status_code == 200
    assert server.say(branch["id"], "and on").status_code == 200


def test_a_branch_of_the_base_is_empty_and_keeps_the_title(learned: tuple[Running, str]) -> None:
    server, path = learned
    branch = server.client.post(f"{path}/versions/0/branch", json={}).json()
    assert (branch["title"], branch["version"]) == ("1.txt", 0)
    there = f"/v1/sessions/{branch['id']}"
    assert server.client.get(f"{there}/versions").json()["data"] == []
    assert server.client.get(f"{there}/messages").json()["data"] == []


def test_bad_branches_are_refused(learned: tuple[Running, str]) -> None:
    server, path = learned
    before = len(server.client.get("/v1/sessions").json()["data"])
    for handle, body, status in [
        ("9", {}, 404),
        ("x", {}, 400),
        ("1", {"title": "a\u0000b"}, 400),
        ("1", {"title": "x" * 256}, 400),
        ("1", {"messages": "yes"}, 400),
        ("1", {"copies": 2}, 400),
    ]:
        answer = server.client.post(f"{path}/versions/{handle}/branch", json=body)
        assert answer.status_code == status, body
    assert len(server.client.get("/v1/sessions").json()["data"]) == before


def test_messages_are_not_copied_out_of_an_answer_under_way(learned: tuple[Running, str]) -> None:
    server, path = learned
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 2000
    with server.stream(path.rsplit("/", 1)[-1]) as response:
        lines = response.iter_lines()
        while "word" not in next(lines):
            pass
        answer = server.client.post(f"{path}/versions/1/branch", json={"messages": True})
        assert refuse(answer)[:2] == (409, "session_busy")
        assert server.client.post(f"{path}/versions/1/branch", json={}).status_code == 201


def test_versions_are_merged_into_a_new_one(learned: tuple[Running, str]) -> None:
    server, path = learned
    parts = [{"version": "1", "weight": 0.5}, {"version": "2"}]
    answer = server.client.post(f"{path}/versions/merge", json={"parts": parts})
    assert answer.status_code == 201
    merged = answer.json()
    one, two = server.client.get(f"{path}/versions").json()["data"][:2]
    assert (merged["number"], merged["parent"], merged["origin"]) == (3, 2, "merge")
    assert merged["parents"] == [one["id"], two["id"]]
    assert 0 < merged["loss"] < 1
    assert "rank 1 of 2" in merged["note"]
    lost = {"code": "compressed", "rank": 1, "from_rank": 2, "loss": merged["loss"]}
    assert merged["notes"][0] == lost
    assert server.client.get(path).json()["version"] == 3
    exact = server.client.post(f"{path}/versions/merge", json={"parts": parts, "rank": 2}).json()
    assert (exact["loss"], exact["note"], exact["notes"], exact["scale"]) == (0, "", [], 1)


def test_bad_merges_are_refused(learned: tuple[Running, str]) -> None:
    server, path = learned
    one, two = {"version": "1"}, {"version": "2"}
    cases: list[tuple[Any, int]] = [
        ([], 400),
        ([one], 400),
        ([one] * 9, 400),
        ([one, {"version": "9"}], 404),
        ([one, {"version": "0"}], 400),
        ([one, {}], 400),
        ([one, {**two, "published": "x"}], 400),
        ([one, {"published": "x", "session": "y"}], 400),
        ([one, {"published": "x"}], 404),
        ([one, {**two, "weight": 0}], 400),
        ([one, {**two, "weight": 5}], 400),
        ([one, {**two, "weight": "1"}], 400),
        ([one, {**two, "session": "sess_" + "0" * 24}], 404),
        ([one, {**two, "colour": 1}], 400),
    ]
    for parts, status in cases:
        answer = server.client.post(f"{path}/versions/merge", json={"parts": parts})
        assert answer.status_code == status, parts
    for rank in (0, 65, 1.5, "2"):
        body = {"parts": [one, two], "rank": rank}
        assert server.client.post(f"{path}/versions/merge", json=body).status_code == 400
    assert server.client.get(f"{path}/versions").json()["current"] == 2


def test_two_versions_are_compared_on_a_text(learned: tuple[Running, str]) -> None:
    server, path = learned
    body = {"a": "1", "b": "2", "text": "Rivers. Überall."}
    found = server.client.post(f"{path}/compare", json=body).json()
    assert (found["tokens"], found["bytes"]) == (17, 17)
    assert (found["a"]["number"], found["b"]["number"], found["base"]["number"]) == (1, 2, 0)
    # The toy model scores 1 nat a byte under the base, and less under any adapter.
    assert found["base"]["bits_per_byte"] == pytest.approx(1.4427, abs=1e-4)
    assert found["a"]["bits_per_byte"] < found["base"]["bits_per_byte"]
    assert found["a"]["bits_per_byte"] != found["b"]["bits_per_byte"]
    same = server.client.post(f"{path}/compare", json={**body, "b": "0"}).json()
    assert same["b"] == same["base"] == found["base"]


def test_bad_comparisons_are_refused(learned: tuple[Running, str]) -> None:
    server, path = learned
    good = {"a": "1", "b": "2", "text": "Rivers."}
    for change, status in [
        ({"a": "9"}, 404),
        ({"b": "x"}, 400),
        ({"text": ""}, 400),
        ({"text": None}, 400),
        ({"text": "x" * 8193}, 413),
        ({"text": "x" * 600_000}, 413),
        ({"c": "1"}, 400),
    ]:
        answer = server.client.post(f"{path}/compare", json={**good, **change})
        assert answer.status_code == status, change
    assert server.client.post(f"{path}/compare", json={"a": "1", "b": "2"}).status_code == 400


def test_no_route_reaches_a_version_of_another_owner(learned: tuple[Running, str]) -> None:
    server, path = learned
    store = server.rig.store
    theirs = store.create_session(
        owner="bob", title="t", model="scripted", checkpoint="5c" * 32, learning="on"
    )
    there = f"/v1/sessions/{theirs.id}"
    part = {"version": "1", "session": theirs.id}
    requests: list[tuple[str, str, Any]] = [
        ("GET", f"{there}/versions", None),
        ("GET", f"{there}/versions/1", None),
        ("PATCH", f"{there}/versions/1", {"pinned": True}),
        ("DELETE", f"{there}/versions/1", None),
        ("DELETE", f"{there}/versions", None),
        ("POST", f"{there}/versions/1/restore", {}),
        ("POST", f"{there}/versions/1/branch", {}),
        ("POST", f"{there}/versions/1/publish", {"name": "x"}),
        ("POST", f"{there}/versions/adopt", {"published": "x"}),
        ("POST", f"{there}/versions/merge", {"parts": [part, part]}),
        ("POST", f"{there}/versions/import", None),
        ("POST", f"{there}/compare", {"a": "0", "b": "0", "text": "x"}),
        ("GET", f"{there}/versions/1/export", None),
        ("POST", f"{path}/versions/merge", {"parts": [{"version": "1"}, part]}),
    ]
    for method, route, body in requests:
        assert server.client.request(method, route, json=body).status_code == 404, (method, route)
    assert server.client.get(f"{path}/versions").json()["current"] == 2


def test_quotas_delete_the_oldest_that_nothing_keeps(start_server: Any) -> None:
    server = start_server()
    path = f"/v1/sessions/{server.create_session()}"

    def read(number: int, *, left: list[int]) -> int:
        """Learn one version; wait until these are left, and return what they take."""
        body = {"name": "a", "text": f"Text {number}. " * 10}
        server.client.post(f"{path}/readings", json=body)
        server.wait_for(path, lambda found: found["version"] == number)
        # The new one is in force a moment before old ones go.
        found = server.wait_for(
            f"{path}/versions", lambda found: [v["number"] for v in found["data"]] == left
        )
        return found["bytes"]

    size_bytes = read(1, left=[1])
    server.rig.history._keeper.limits = Limits(session_bytes=4 * size_bytes, owner_bytes=2**40)
    read(2, left=[1, 2])
    read(3, left=[1, 2, 3])
    read(4, left=[1, 2, 3, 4])
    server.client.patch(f"{path}/versions/1", json={"pinned": True})
    read(5, left=[1, 3, 4, 5])
    assert read(6, left=[1, 4, 5, 6]) == 4 * size_bytes
    for number in (4, 5, 6):
        server.client.patch(f"{path}/versions/{number}", json={"pinned": True})
    parts = [{"version": "4"}, {"version": "5"}]
    refused = server.client.post(f"{path}/versions/merge", json={"parts": parts})
    assert refuse(refused)[:2] == (409, "quota_reached")
    assert server.client.get(f"{path}/versions").json()["current"] == 6


def test_a_server_that_does_not_learn_wins_over_sessions(start_server: Any) -> None:
    server = start_server(learning=False)
    path = f"/v1/sessions/{server.create_session()}"
    assert server.client.get(path).json()["learning"] == "frozen"
    refused = server.client.patch(path, json={"learning": "on"})
    assert refuse(refused)[:2] == (409, "learning_off")
    server.client.post(f"{path}/readings", json={"name": "a", "text": "Rivers. " * 10})
    server.wait_for(f"{path}/readings", lambda found: found["data"][0]["status"] == "done")
    assert server.client.get(f"{path}/versions").json()["data"] == []
    assert not server.client.get(f"{path}/scores").json()["data"][0]["learned"]
