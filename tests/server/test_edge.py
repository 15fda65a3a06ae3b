"""What every answer carries, and whom the edge turns away."""

import json

import pytest

from fluvial.testing import Rig
from tests.server.conftest import Running, Start


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/openapi.json", "/v1/sessions", "/v1/nothing", "/docs", "/%ff"]
)
def test_every_answer_has_an_id_and_the_security_headers(shared: Running, path: str) -> None:
    answer = shared.client.get(path)
    headers = answer.headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    for part in ("default-src 'self'", "object-src 'none'", "frame-ancestors 'none'"):
        assert part in policy
    assert "script-src" not in policy
    assert "access-control-allow-origin" not in headers
    assert shared.client.get(path).headers["x-request-id"] != headers["x-request-id"]


def test_unknown_routes_and_methods_have_the_error_shape(shared: Running) -> None:
    for method, path, status in (
        ("GET", "/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/redoc", 404),
        ("GET", "/v1/sessions/", 404),
        ("PUT", "/v1/sessions", 405),
        ("GET", "/v1/chat/completions", 405),
    ):
        answer = shared.client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:80", "192.168.0.9", "", "["]
)
def test_on_loopback_other_hosts_are_turned_away(shared: Running, host: str) -> None:
    answer = shared.client.get("/v1/sessions", headers={"host": host})
    assert answer.status_code in (400, 403)
    if answer.status_code == 403:
        assert answer.json()["error"]["code"] == "wrong_host"


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:8420", "[::1]:8420"])
def test_names_of_this_machine_are_accepted(shared: Running, host: str) -> None:
    assert shared.client.get("/v1/sessions", headers={"host": host}).status_code == 200


def test_a_server_for_others_takes_any_host(start_server: Start) -> None:
    key = "correct horse battery"
    server = start_server(host="192.0.2.1", api_key=key)
    headers = {"host": "fluvial.example", "authorization": f"Bearer {key}"}
    assert server.client.get("/v1/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:8420", "http://["],
)
def test_pages_of_other_origins_can_not_change_anything(shared: Running, origin: str) -> None:
    before = len(shared.client.get("/v1/sessions").json()["data"])
    for kind in ("application/json", "text/plain"):
        answer = shared.client.post(
            "/v1/sessions", content="{}", headers={"origin": origin, "content-type": kind}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
    assert len(shared.client.get("/v1/sessions").json()["data"]) == before


def test_the_servers_own_page_can(shared: Running) -> None:
    answer = shared.client.post("/v1/sessions", headers={"origin": shared.url})
    assert answer.status_code == 201
    assert shared.client.delete(f"/v1/sessions/{answer.json()['id']}").status_code == 204


def test_a_defect_is_a_500_that_tells_nothing_but_an_id(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig: Rig = server.rig

    def fail(**_: object) -> None:
        raise ZeroDivisionError("secret path /home/ann")

    monkeypatch.setattr(rig.store, "sessions", fail)
    answer = server.client.get("/v1/sessions")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "internal_error")
    assert answer.headers["x-request-id"] in error["message"]
    assert "secret" not in answer.text
    assert "content-security-policy" in answer.headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"", "invalid_request"),
        (b"nul", "invalid_json"),
        (b'{"model": "a", "model": "b"}', "invalid_json"),
        (b'{"temperature": NaN}', "invalid_json"),
        (b'{"temperature": -Infinity}', "invalid_json"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json"),
        (b'{"model": "\xff\xfe"}', "invalid_utf8"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b"[]", "invalid_request"),
        (b'"text"', "invalid_request"),
        (b"null", "invalid_request"),
    ],
)
def test_a_body_that_is_not_strict_json_is_a_400(shared: Running, body: bytes, code: str) -> None:
    answer = shared.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400, answer.text[:500]
    assert answer.json()["error"]["code"] == code
    assert len(answer.text) < 1000


def test_a_body_of_another_type_is_a_400(shared: Running) -> None:
    for kind in ("text/plain", "", "application/x-www-form-urlencoded"):
        answer = shared.client.post(
            "/v1/chat/completions", content=b"{}", headers={"content-type": kind}
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "content_type")


def test_a_body_over_the_limit_is_refused_with_and_without_a_declared_length(
    start_server: Start,
) -> None:
    server = start_server(max_body_bytes=2000)
    body = json.dumps({"model": "scripted", "messages": [{"role": "user", "content": "a" * 4000}]})
    parts = [body[start : start + 500].encode() for start in range(0, len(body), 500)]
    for content in (body.encode(), iter(parts)):
        answer = server.client.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"
        assert "2000" in answer.json()["error"]["message"]
