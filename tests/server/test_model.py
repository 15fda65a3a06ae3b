"""Models over HTTP: the one served first, the others after it."""

from dataclasses import replace
from pathlib import Path

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
    assert listed["data"][0]["fluvial"]["runs_on"] == "the packed graph"
    missing = server.client.get("/v1/models/gpt-9")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_a_model_of_an_unknown_family_says_that_it_is_slower(
    server: Running, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    other = replace(MODEL, name="foreign", sha256="1" * 64, path=str(tmp_path))
    server.rig.service._installed = lambda: [MODEL, other]
    model = server.client.get("/v1/models/foreign").json()
    assert model["fluvial"]["runs_on"] == "transformers (slower)"
    (tmp_path / "config.json").write_text("{")
    model = server.client.get("/v1/models/foreign").json()
    assert "damaged" in model["fluvial"]["runs_on"]
