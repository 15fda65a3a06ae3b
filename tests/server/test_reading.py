"""Documents over HTTP: taken in, read, listed, stopped; or why they can't be read."""

import json

import pytest

from tests.server.conftest import Running, Start

PAGE = (
    b"<!doctype html><title>T</title><body><h1>Head</h1><p>One &amp; two.</p><script>x()</script>"
)


def upload(server: Running, data: bytes, name: str, session: str | None = None) -> "object":
    session = session or server.create_session()
    return server.client.post(f"/v1/sessions/{session}/readings", files={"file": (name, data)})


def test_a_text_is_read_to_its_end(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    server.rig.reader.hold = True
    text = "Rivers carve valleys. " * 20
    answer = server.client.post(f"{path}/readings", json={"name": "r.txt", "text": text})
    assert answer.status_code == 202
    reading = answer.json()
    assert (reading["kind"], reading["name"], reading["status"]) == ("document", "r.txt", "queued")
    assert (reading["bytes"], reading["tokens_read"]) == (len(text), 0)
    under_way = server.wait_for(
        f"{path}/readings", lambda found: found["data"][0]["status"] == "reading"
    )["data"][0]
    assert under_way["tokens_total"] == len(text)
    assert under_way["seconds_left"] == pytest.approx(len(text) / 100)
    assert server.client.get(path).json()["reading"]
    server.rig.reader.release()
    done = server.wait_for(f"{path}/readings", lambda found: found["data"][0]["status"] == "done")[
        "data"
    ][0]
    assert done["tokens_read"] == len(text)
    assert done["seconds_left"] is None
    assert not server.client.get(path).json()["reading"]


def test_scores_are_bits_per_byte_and_can_be_asked_for_after_an_index(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    server.client.post(f"{path}/readings", json={"name": "r.txt", "text": "word " * 40})
    server.wait_for(path, lambda found: found["version"] == 1)
    scores = server.client.get(f"{path}/scores").json()["data"]
    assert [score["start"] for score in scores] == [0, 64, 128, 192]
    assert scores[0]["frozen_bits_per_byte"] == pytest.approx(1 / 0.6931, rel=1e-3)
    assert scores[0]["adapted_bits_per_byte"] == pytest.approx(0.5 / 0.6931, rel=1e-3)
    told = (scores[0]["learned"], scores[0]["reason"], scores[0]["seconds"])
    assert told == (True, "", 0.25)
    after = scores[1]["index"]
    rest = server.client.get(f"{path}/scores", params={"after": after}).json()["data"]
    assert rest == scores[2:]
    assert server.client.get(f"{path}/scores", params={"after": -1}).status_code == 400


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.md", "# Über\n\nText".encode(), "# Über\n\nText"),
        ("noext", b"plain", "plain"),
        ("管理员手册.txt", "网络".encode(), "网络"),
        ("family \U0001f468\u200d\U0001f469 plan.txt", b"plan", "plan"),
        ("C:\\docs\\b.txt", b"windows\r\nlines", "windows\nlines"),
        ("../../etc/c.txt", b"path", "path"),
    ],
)
def test_files_are_taken_in(server: Running, name: str, data: bytes, expected: str) -> None:
    session = server.create_session()
    answer = upload(server, data, name, session)
    assert answer.status_code == 202, answer.text
    assert answer.json()["name"] == name.replace("\\", "/").rsplit("/", 1)[-1]
    found = server.rig.store.session(session, owner="local")
    reading = server.rig.store.reading(found, answer.json()["id"])
    assert server.rig.store.reading_text(reading) == expected


def test_the_text_of_a_page_is_taken_from_its_html(server: Running) -> None:
    session = server.create_session()
    answer = upload(server, PAGE, "p.html", session)
    found = server.rig.store.session(session, owner="local")
    text = server.rig.store.reading_text(server.rig.store.reading(found, answer.json()["id"]))
    assert "One & two." in text
    assert "x()" not in text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.txt", b"ok \xff\xfe", "offset 3"),
        ("a.pdf", b"MZ this is not a PDF", "PDF"),
        ("a.pdf", b"%PDF-1.7\n garbage without any structure", "PDF"),
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t ", "empty"),
        ("a.bin", b"a\0b", "not text"),
    ],
)
def test_a_file_that_cant_be_read_is_a_400_that_says_why(
    shared: Running, name: str, data: bytes, said: str
) -> None:
    session = shared.create_session()
    answer = upload(shared, data, name, session)
    assert answer.status_code == 400, answer.text
    assert said in answer.json()["error"]["message"]
    assert shared.client.get(f"/v1/sessions/{session}/readings").json()["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": "a"}, "text"),
        ({"text": "a"}, "name"),
        ({"name": "", "text": "a"}, "name"),
        ({"name": "a", "text": " \n"}, "text"),
        ({"name": "a", "text": 5}, "text"),
        ({"name": "x" * 300, "text": "a"}, "name"),
        ({"name": "a\u202eb", "text": "a"}, "name"),
        ({"name": "a", "text": "\ud800"}, "text"),
        ({"name": "a", "text": "b", "url": "http://x"}, "url"),
    ],
)
def test_a_wrong_json_reading_is_named(
    shared: Running, body: dict[str, object], param: str
) -> None:
    session = shared.create_session()
    answer = shared.client.post(
        f"/v1/sessions/{session}/readings",
        content=json.dumps(body),
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"--x\r\n\r\n", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
        (b"--x\r\nno colon\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b"plain", "text/plain"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ],
)
def test_a_broken_form_is_a_400(shared: Running, content: bytes, kind: str) -> None:
    session = shared.create_session()
    answer = shared.client.post(
        f"/v1/sessions/{session}/readings", content=content, headers={"content-type": kind}
    )
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_form_with_more_than_one_file_is_a_400(shared: Running) -> None:
    path = f"/v1/sessions/{shared.create_session()}/readings"
    two = [("file", ("a.txt", b"a")), ("file", ("b.txt", b"b"))]
    assert shared.client.post(path, files=two).status_code == 400
    assert shared.client.post(path, files={"document": ("a.txt", b"a")}).status_code == 400


def test_a_document_over_the_limit_is_a_413(start_server: Start) -> None:
    server = start_server(max_document_bytes=2000)
    session = server.create_session()
    for size in (2001, 500_000):
        answer = upload(server, b"a" * size, "a.txt", session)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        text = {"name": "a", "text": "ä" * (size // 2 + 1)}
        answer = server.client.post(f"/v1/sessions/{session}/readings", json=text)
        assert answer.status_code == 413
    assert upload(server, b"a" * 2000, "a.txt", session).status_code == 202


def test_a_reading_under_way_can_be_stopped(server: Running) -> None:
    server.rig.reader.hold = True
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    ids = [
        server.client.post(f"{path}/readings", json={"name": n, "text": "text " * 50}).json()["id"]
        for n in ("one", "two")
    ]
    server.wait_for(f"{path}/readings", lambda found: found["data"][0]["status"] == "reading")
    for id in ids:
        gone = server.client.delete(f"{path}/readings/{id}").json()
        assert (gone["status"], gone["text"]) == ("cancelled", False)
    again = server.client.delete(f"{path}/readings/{ids[0]}")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    assert not server.client.get(path).json()["reading"]
    assert server.client.delete(f"{path}/readings/read_unknown").status_code == 404


def test_only_removing_a_reading_removes_its_text(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    ids = [upload(server, b"text " * 50, name, session).json()["id"] for name in ("a", "b")]
    server.wait_for(path, lambda found: not found["reading"])
    assert server.client.delete(f"{path}/versions").status_code == 200
    assert server.client.delete(f"{path}/readings/{ids[0]}").json()["text"] is False
    readings = server.client.get(f"{path}/readings").json()["data"]
    assert [(each["id"], each["text"]) for each in readings] == [(ids[0], False), (ids[1], True)]


def test_a_reading_of_another_session_is_not_found(server: Running) -> None:
    mine, other = server.create_session(), server.create_session()
    reading = server.client.post(
        f"/v1/sessions/{mine}/readings", json={"name": "a", "text": "text " * 50}
    ).json()["id"]
    assert server.client.delete(f"/v1/sessions/{other}/readings/{reading}").status_code == 404


def test_a_conversation_that_begins_with_a_document_is_named_after_it(server: Running) -> None:
    session = server.create_session()
    path = f"/v1/sessions/{session}"
    server.client.post(f"{path}/readings", json={"name": "handbook.md", "text": "words " * 9})
    assert server.client.get(path).json()["title"] == "handbook.md"
    server.client.patch(path, json={"title": "Mine"})
    server.client.post(f"{path}/readings", json={"name": "other.md", "text": "words " * 9})
    assert server.client.get(path).json()["title"] == "Mine"
