"""Models over HTTP: the one served first, the others after it."""

from dataclasses import replace

from fluvial.testing import MODEL
from tests.server.conftest import Running


def test_the_served_model_is_listed_first(server: Running) -> None:
    other = replace(MODEL, name="an-other", sha256="0" * 64, languages=("en", "zh"))
    server.rig.service._installed = lambda: [other, MODEL]
    listed = server.client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert [(m["id"], m["fluvial"]["served"]) for m in listed["data"]] == [
        ("scripted", True),
        ("an-other", False),
    ]
    assert set(listed["data"][0]) == {"id", "object", "created", "owned_by", "fluvial"}
    assert server.client.get("/v1/models/an-other").json() == listed["data"][1]
    missing = server.client.get("/v1/models/gpt-9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
