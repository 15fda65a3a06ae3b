"""What a server tells of its release, and what its end stops."""

import time
from dataclasses import replace
from typing import Any

from fluvial.gate.release import Release
from fluvial.gate.result import Adaptation
from fluvial.gate.signing import make_release
from fluvial.service.release import Clearance
from fluvial.testing import MODEL, make_tensors
from tests.gate.made import make_plan, make_results, make_risk
from tests.server.conftest import Running, Start

SUBJECTS = {"weights": MODEL.sha256, "guard": "c" * 64}


def hold(*, days: float) -> Release:
    """Return a release that ends so many days from now."""
    results = make_results(
        make_plan(make_risk()), subjects=SUBJECTS, adaptation=Adaptation(drift_budget=0.04)
    )
    made = make_release(results, now=time.time(), days=30)
    terms = replace(made.terms, expires_at=time.time() + days * 86_400)
    return replace(made, terms=terms, key_id="k")


def put(server: Running, held: Release | None) -> None:
    server.rig.service.clearance = Clearance(
        subjects=SUBJECTS, adaptation={"drift_budget": 0.04}, held=held
    )


def told(server: Running) -> dict[str, Any]:
    return server.client.get("/v1/models").json()["data"][0]["fluvial"]


def test_development_says_that_nothing_is_released(server: Running) -> None:
    put(server, None)
    release = told(server)["release"]
    assert (release["mode"], release["status"]) == ("development", "not released")
    assert release["expires_at"] is None
    assert told(server)["subjects"] == SUBJECTS
    health = server.client.get("/healthz").json()
    assert health["release"] == release
    assert health["subjects"] == {name: sha256[:12] for name, sha256 in SUBJECTS.items()}
    assert health["audit"] == "ok"
    assert server.say(None, "hi").status_code == 200


def test_production_says_until_when(server: Running) -> None:
    held = hold(days=5)
    put(server, held)
    release = told(server)["release"]
    assert (release["mode"], release["status"]) == ("production", "released")
    assert release["expires_at"] == held.terms.expires_at
    assert server.say(None, "hi").status_code == 200


def test_nothing_is_answered_after_the_end_of_the_release(server: Running) -> None:
    session = server.create_session()
    put(server, hold(days=-0.001))
    for where in (None, session):
        answer = server.say(where, "hi")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "release_expired")
        assert "its operator must test and sign it again" in answer.json()["error"]["message"]
        assert answer.headers["x-should-retry"] == "false"
    assert told(server)["release"]["status"] == "not released"
    assert server.client.get(f"/v1/sessions/{session}/messages").json()["data"] == []
    put(server, hold(days=1))
    assert server.say(session, "hi").status_code == 200


def test_a_version_that_drifted_too_far_does_not_answer(server: Running) -> None:
    service, id = server.rig.service, server.create_session()
    session = service.session(id, owner="local")
    for number, drift in enumerate((0.03, 0.05, None), start=1):
        session, _ = server.rig.history.add(
            session, make_tensors(number), origin="import", parents=(), rule="", drift=drift
        )
    put(server, hold(days=1))
    for handle, status in (("3", 409), ("2", 409), ("1", 200), ("0", 200)):
        service.versions.restore(session, handle)
        answer = server.say(id, "hi")
        assert answer.status_code == status, handle
        if status == 409:
            assert answer.json()["error"]["code"] == "version_not_covered"


def test_the_only_model_that_is_told_as_released_is_the_one_served(start_server: Start) -> None:
    server = start_server()
    other = replace(MODEL, name="other", sha256="0" * 64)
    server.rig.service._installed = lambda: [other, MODEL]
    served, idle = server.client.get("/v1/models").json()["data"]
    assert "release" in served["fluvial"]
    assert "release" not in idle["fluvial"]
