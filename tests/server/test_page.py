"""The built page: its files and nothing else."""

from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fluvial.server.page import make_router


@pytest.fixture
def page(tmp_path: Path) -> TestClient:
    folder = tmp_path / "page"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html><title>Fluvial</title>")
    (folder / "assets" / "app-1a2b.js").write_text("export {}")
    (folder / "assets" / "font.woff2").write_bytes(b"wOF2")
    (folder / "favicon.svg").write_text("<svg/>")
    (tmp_path / "secret.txt").write_text("secret")
    app = FastAPI()
    app.include_router(make_router(folder))
    return TestClient(app)


def test_files_have_their_types_and_their_lifetimes(page: TestClient) -> None:
    for path, kind, lasting in (
        ("/", "text/html; charset=utf-8", False),
        ("/index.html", "text/html; charset=utf-8", False),
        ("/favicon.svg", "image/svg+xml", False),
        ("/assets/app-1a2b.js", "text/javascript; charset=utf-8", True),
        ("/assets/font.woff2", "font/woff2", True),
    ):
        answer = page.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == kind
        assert ("immutable" in answer.headers["cache-control"]) is lasting
        assert page.head(path).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/../secret.txt", "/assets/..%2f..%2fsecret.txt", "/%2e%2e/secret.txt", "/assets/", "/x"],
)
def test_nothing_beyond_the_folder_is_reached(page: TestClient, path: str) -> None:
    answer = page.get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_a_page_that_is_not_built_says_how_to_build_it(tmp_path: Path) -> None:
    app = FastAPI()
    app.include_router(make_router(tmp_path / "missing"))
    answer = TestClient(app).get("/")
    assert answer.status_code == 404
    assert "make web" in answer.text
