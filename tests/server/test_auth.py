"""Who is let in: every route but the open ones needs the key where there is one."""

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from fluvial.config import load
from fluvial.errors import InputError
from fluvial.server.app import create_app, serve
from fluvial.server.auth import check_exposure, is_loopback
from fluvial.testing import make_rig
from tests.server.conftest import Start

KEY = "correct horse battery"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the very thing that is refused
OPEN = {"/healthz", "/openapi.json", "/"}


def fill(path: str) -> str:
    """Put something in the place of each parameter of a path."""
    session = "sess_000000000000000000000000"
    known = {"session_id": session, "version": "1", "reading_id": "read_1", "name": "m"}
    for name, value in known.items():
        path = path.replace(f"{{{name}}}", value)
    assert "{" not in path
    return path


def test_every_route_needs_the_key_unless_it_is_open(start_server: Start) -> None:
    server = start_server(api_key=KEY)
    schema = server.client.get("/openapi.json").json()
    paths = [(m.upper(), path) for path, methods in schema["paths"].items() for m in methods]
    assert len(paths) > 15
    for method, path in paths:
        for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
            answer = server.client.request(method, fill(path), headers=header)
            expected = 200 if path in OPEN else 401
            assert answer.status_code == expected, (method, path)
            if expected == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"
        answer = server.client.request(
            method, fill(path), headers={"authorization": f"Bearer {KEY}"}
        )
        assert answer.status_code != 401, (method, path)


def test_no_route_goes_around_the_check(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Also those that the schema does not tell: each is an APIRoute, so `identify` is before it."""
    rig = make_rig(tmp_path_factory.mktemp("routes"))
    try:
        app = create_app(rig.service)
    finally:
        rig.service.close()
    for route in flatten(app.routes):
        assert isinstance(route, APIRoute), route
        assert not route.path.startswith("/v1") or not getattr(route.endpoint, "is_open", False)


def flatten(routes: list[BaseRoute]) -> list[BaseRoute]:
    found: list[BaseRoute] = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        found += flatten(inner.routes) if inner is not None else [route]
    return found


def test_without_a_key_any_key_is_accepted_on_loopback(start_server: Start) -> None:
    server = start_server()
    for headers in ({}, {"authorization": "Bearer sk-anything"}, {"authorization": "\x01"}):
        assert server.client.get("/v1/sessions", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *(("127.0.0.1", True), ("127.8.8.8", True), ("localhost", True), ("::1", True)),
        *(("[::1]", True), ("LOCALHOST", True)),
        *((EVERYWHERE, False), ("::", False), ("192.168.1.4", False), ("", False)),
        *(("localhost.evil.example", False), ("127.0.0.1.evil.example", False)),
    ],
)
def test_loopback_is_told_from_the_rest(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_serving_others_in_development_is_refused_before_anything_starts() -> None:
    for key in (None, KEY):
        given = {"host": EVERYWHERE, "data_dir": "/nonexistent/fluvial", "api_key": key}
        with pytest.raises(InputError, match="not released.*ssh -L 8420:127.0.0.1:8420") as caught:
            serve(load(overrides=given))
        assert caught.value.param == "host"


def test_serving_others_in_production_needs_a_release_and_a_key() -> None:
    given = {"host": EVERYWHERE, "mode": "production", "data_dir": "/nonexistent/fluvial"}
    for name, path in (("release", "r.json"), ("release_key", "key.pub")):
        with pytest.raises(InputError, match="mode is production") as caught:
            serve(load(overrides=given))
        assert caught.value.param == name
        given[name] = path
    with pytest.raises(InputError, match="FLUVIAL_API_KEY"):
        serve(load(overrides=given))
    check_exposure(load(overrides={**given, "api_key": KEY}))
    check_exposure(load(overrides={**given, "host": "127.0.0.1"}))


def test_a_server_for_others_without_a_key_answers_no_one(start_server: Start) -> None:
    server = start_server(host="192.0.2.1")
    answer = server.client.get("/v1/sessions")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_key_that_is_too_short_is_refused_without_repeating_it() -> None:
    with pytest.raises(InputError) as refused:
        load(overrides={"api_key": "hunter2"})
    assert "api_key" in refused.value.message
    assert "hunter2" not in refused.value.message
