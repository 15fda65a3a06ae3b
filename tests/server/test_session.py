"""Sessions over HTTP: kept, listed, changed, deleted, and nobody else's."""

import time

import pytest

from tests.server.conftest import Running


def test_health_names_the_model_and_the_learner(shared: Running) -> None:
    answer = shared.client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"
    assert answer.json()["model"] == "scripted"
    assert answer.json()["learner"] == "ready"


def test_a_new_session_has_every_documented_field(server: Running) -> None:
    created = server.client.post("/v1/sessions", json={"title": "  Kernel\n notes "})
    assert created.status_code == 201
    session = created.json()
    assert session["id"].startswith("sess_")
    assert {key: session[key] for key in ("object", "title", "model", "learning", "version")} == {
        "object": "session",
        "title": "Kernel notes",
        "model": "scripted",
        "learning": "on",
        "version": 0,
    }
    assert (session["busy"], session["reading"], session["available"]) == (False, False, True)
    assert session["context"] == {"used_tokens": 0, "limit_tokens": 2048}
    assert server.client.get(f"/v1/sessions/{session['id']}").json() == session


def test_a_body_is_not_needed_to_begin(shared: Running) -> None:
    assert shared.client.post("/v1/sessions").status_code == 201


def test_the_title_comes_from_the_first_message_only(server: Running) -> None:
    session = server.create_session()
    server.say(session, "What is\n   a qdisc? " + "word " * 40)
    server.say(session, "And something else")
    title = server.client.get(f"/v1/sessions/{session}").json()["title"]
    assert title.startswith("What is a qdisc? word")
    assert len(title) <= 60
    assert title.endswith("…")


def test_sessions_are_listed_newest_first_in_pages(server: Running) -> None:
    made = [server.create_session(title=f"number {number}") for number in range(3)]
    server.say(made[0], "now this one is the newest")
    first = server.client.get("/v1/sessions", params={"limit": 2}).json()["data"]
    assert [each["id"] for each in first] == [made[0], made[2]]
    assert first[0]["context"]["used_tokens"] is None
    rest = server.client.get("/v1/sessions", params={"before": first[-1]["updated_at"]})
    assert [each["id"] for each in rest.json()["data"]] == [made[1]]


@pytest.mark.parametrize(
    ("params", "param"),
    [({"limit": 0}, "limit"), ({"limit": 201}, "limit"), ({"before": "NaN"}, "before")],
)
def test_a_query_out_of_range_is_named(shared: Running, params: dict[str, str], param: str) -> None:
    answer = shared.client.get("/v1/sessions", params=params)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_title_and_learning_can_be_changed(shared: Running) -> None:
    session = shared.create_session()
    path = f"/v1/sessions/{session}"
    changed = shared.client.patch(path, json={"title": "New", "learning": "frozen"})
    assert (changed.json()["title"], changed.json()["learning"]) == ("New", "frozen")
    assert shared.client.get(path).json()["learning"] == "frozen"
    wrong = shared.client.patch(path, json={"learning": "fast"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "learning"
    assert shared.client.patch(path, json={"version": 3}).json()["error"]["param"] == "version"


def test_a_deleted_session_is_gone_with_its_files(server: Running) -> None:
    session = server.create_session()
    server.client.post(
        f"/v1/sessions/{session}/readings", json={"name": "a.txt", "text": "words " * 50}
    )
    folder = server.rig.store.version_path(
        server.rig.store.session(session, owner="local"), 1
    ).parent.parent
    assert folder.exists()
    assert server.client.delete(f"/v1/sessions/{session}").status_code == 204
    assert server.client.get(f"/v1/sessions/{session}").status_code == 404
    assert server.client.delete(f"/v1/sessions/{session}").status_code == 404
    assert not folder.exists()


def test_deleting_a_session_stops_its_answer_and_its_reading(server: Running) -> None:
    server.rig.reader.hold = True
    server.rig.engine.delay_s = 0.05
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    server.client.post(f"{path}/readings", json={"name": "a.txt", "text": "words " * 50})
    with server.stream(session) as answer:
        lines = answer.iter_lines()
        assert next(lines)
        assert server.client.delete(path).status_code == 204
        assert "[DONE]" in "".join(lines)
    assert not server.rig.engine.active


@pytest.mark.parametrize("path", ["", "/messages", "/readings", "/scores", "/versions", "/events"])
def test_an_unknown_session_is_a_typed_404(shared: Running, path: str) -> None:
    for id in ("sess_000000000000000000000000", "sess_..%2f..%2fetc", "x" * 3000, "%00"):
        answer = shared.client.get(f"/v1/sessions/{id}{path}")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"


def test_another_owners_session_looks_like_none(server: Running) -> None:
    theirs = server.rig.store.create_session(
        owner="someone", title="private", model="scripted", checkpoint="x", learning="on"
    )
    assert server.client.get(f"/v1/sessions/{theirs.id}").status_code == 404
    assert server.say(theirs.id, "hi").status_code == 404
    assert server.client.get("/v1/sessions").json()["data"] == []


def test_a_session_of_another_model_can_be_seen_but_not_used(server: Running) -> None:
    old = server.rig.store.create_session(
        owner="local", title="old", model="other", checkpoint="f" * 64, learning="on"
    )
    shown = server.client.get(f"/v1/sessions/{old.id}").json()
    assert (shown["available"], shown["context"]["used_tokens"]) == (False, None)
    for answer in (
        server.say(old.id, "hi"),
        server.client.post(
            f"/v1/sessions/{old.id}/readings", json={"name": "a", "text": "some text"}
        ),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "model_not_served"
        assert "other" in answer.json()["error"]["message"]


def test_stop_ends_the_answer_and_keeps_what_was_written(server: Running) -> None:
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    with server.stream(session) as answer:
        lines = answer.iter_lines()
        while "word" not in next(lines):
            pass
        assert server.client.get(f"/v1/sessions/{session}").json()["busy"]
        assert server.client.post(f"/v1/sessions/{session}/stop").status_code == 204
        messages = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
        assert messages[1]["finish"] == "cancelled"
        assert messages[1]["content"].startswith("word")
        rest = "".join(lines)
    assert '"finish":"cancelled"' in rest
    assert not server.client.get(f"/v1/sessions/{session}").json()["busy"]
    assert server.client.post(f"/v1/sessions/{session}/stop").status_code == 204


def test_a_partial_answer_reaches_the_store_while_it_is_written(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fluvial.service.turn.FLUSH_INTERVAL_S", 0.0)
    server.rig.engine.delay_s = 0.02
    server.rig.engine.reply = lambda _: "word " * 1000
    session = server.create_session()
    with server.stream(session):
        for _ in range(200):
            messages = server.client.get(f"/v1/sessions/{session}/messages").json()["data"]
            if len(messages) == 2 and "word" in messages[1]["content"]:
                break
            time.sleep(0.02)
        assert messages[1]["content"].startswith("word")
        assert messages[1]["finish"] is None
