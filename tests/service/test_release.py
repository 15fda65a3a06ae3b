"""Production serves what was released and nothing else: everything else is refused, and why."""

import base64
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluvial.config import Settings, load
from fluvial.errors import (
    ConflictError,
    InputError,
    ModelError,
    NotFoundError,
    ReleaseEndedError,
    ReleaseError,
)
from fluvial.gate import key
from fluvial.gate.release import Release, verify
from fluvial.gate.result import Adaptation
from fluvial.gate.signing import sign
from fluvial.service.release import Clearance, Clock, clear, compare
from fluvial.service.start import open_service
from fluvial.store.audit_check import read_entries
from fluvial.types import Version
from tests.gate.made import make_evidence, make_plan, make_results, make_risk
from tests.system.live import install

DAY_S = 86_400.0


@dataclass(frozen=True, kw_only=True)
class Lab:
    """A data folder with the tiny model, what a server loads of it, and two pairs of keys."""

    data_dir: Path
    subjects: dict[str, str]
    signer: Path
    stranger: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    install(folder / "data", tiny_model)
    service = open_service(choose(folder / "data"))
    subjects = service.clearance.subjects
    service.close()
    for name in ("signer", "stranger"):
        key.generate(folder / name)
    return Lab(
        data_dir=folder / "data",
        subjects=subjects,
        signer=folder / "signer",
        stranger=folder / "stranger",
    )


def choose(data_dir: Path, **given: Any) -> Settings:
    fixed = {"model": "tiny", "offline": True, "threads": 1, "learner_threads": 1}
    return load(overrides={"data_dir": data_dir, **fixed, **given})


def make_release(
    lab: Lab,
    *,
    by: Path | None = None,
    days_ago: float = 0.0,
    failed: int = 0,
    subjects: dict[str, str] | None = None,
    drift_budget: float | None = 0.04,
) -> bytes:
    """Return a signed release of the lab's model; it is valid for ten days."""
    signed_at = time.time() - days_ago * DAY_S
    plan = make_plan(make_risk())
    results = make_results(
        plan,
        make_evidence(60, failed),
        subjects=subjects or lab.subjects,
        started_at=signed_at - 60,
        ended_at=signed_at - 1,
        adaptation=Adaptation(drift_budget=drift_budget),
    )
    return sign(results, signer=key.load_private(by or lab.signer), now=signed_at, days=10)


def begin(data_dir: Path, lab: Lab, **given: Any) -> Clearance:
    """Start a service in production, end it, and return its clearance."""
    release = given.pop("release", data_dir / "release.json")
    settings = choose(
        data_dir,
        mode="production",
        release=release,
        release_key=lab.signer.with_name("signer.pub"),
        **given,
    )
    service = open_service(settings)
    service.close()
    return service.clearance


@pytest.fixture
def data_dir(lab: Lab, tmp_path: Path) -> Path:
    """A copy of the lab's folder, with a good release in it."""
    shutil.copytree(lab.data_dir, tmp_path / "data")
    (tmp_path / "data" / "release.json").write_bytes(make_release(lab))
    return tmp_path / "data"


def refusals(data_dir: Path) -> list[str]:
    found = [each for each in read_entries(data_dir) if each.kind == "release.refused"]
    return [str(each.detail["code"]) for each in found]


def test_what_was_released_is_served_and_on_record(lab: Lab, data_dir: Path) -> None:
    clearance = begin(data_dir, lab)
    standing = clearance.tell()
    assert (standing.mode, standing.released, standing.plan) == ("production", True, "small")
    assert standing.expires_at == pytest.approx(time.time() + 10 * DAY_S, abs=60)
    clearance.require()
    accepted = [each for each in read_entries(data_dir) if each.kind == "release.accepted"]
    assert accepted[0].detail["weights"] == lab.subjects["weights"]
    assert refusals(data_dir) == []


def test_the_digest_of_the_weights_is_that_of_the_file(lab: Lab, tiny_model: Path) -> None:
    assert lab.subjects["weights"] == hashlib.sha256(tiny_model.read_bytes()).hexdigest()
    names = {"weights", "graph", "tokenizer", "template", "guard", "sampling", "adaptation"}
    assert set(lab.subjects) == names
    assert all(len(sha256) == 64 for sha256 in lab.subjects.values())
    assert len(set(lab.subjects.values())) == len(names)


def rewrite_model(data_dir: Path, change: Callable[[bytearray], None]) -> None:
    """Change the model's file, and the record beside it, as somebody would who covers it up."""
    folder = data_dir / "models" / "tiny"
    data = bytearray((folder / "model.gguf").read_bytes())
    change(data)
    (folder / "model.gguf").unlink()
    (folder / "model.gguf").write_bytes(data)
    record = json.loads((folder / "model.json").read_text())
    record["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "model.json").write_text(json.dumps(record))


def flip_last_bit(data: bytearray) -> None:
    data[-1] ^= 1


def swap_template(data: bytearray) -> None:
    assert data.count(b"message.role") == 1 or data.count(b"message['role']") == 1
    data[:] = data.replace(b"message", b"massage")


def test_one_flipped_bit_in_the_weights_is_refused(lab: Lab, data_dir: Path) -> None:
    rewrite_model(data_dir, flip_last_bit)
    with pytest.raises(ReleaseError, match=r"weights is .* was released") as caught:
        begin(data_dir, lab)
    assert caught.value.code == "release_other_subjects"
    assert "template" not in caught.value.message
    assert refusals(data_dir) == ["release_other_subjects"]


def test_a_flipped_bit_that_nobody_covers_up_is_damage(lab: Lab, data_dir: Path) -> None:
    path = data_dir / "models" / "tiny" / "model.gguf"
    data = bytearray(path.read_bytes())
    flip_last_bit(data)
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(ModelError, match="is damaged"):
        begin(data_dir, lab)


def test_one_flipped_bit_in_the_packed_weights_is_refused(lab: Lab, data_dir: Path) -> None:
    (folder,) = (data_dir / "graphs").glob("*-packed-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    name = max(manifest["files"], key=lambda name: (folder / name).stat().st_size)
    data = bytearray((folder / name).read_bytes())
    flip_last_bit(data)
    (folder / name).write_bytes(data)
    manifest["files"][name] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ReleaseError, match=r"graph is .* was released") as caught:
        begin(data_dir, lab)
    assert "weights is" not in caught.value.message


def test_a_swapped_template_is_refused(lab: Lab, data_dir: Path) -> None:
    rewrite_model(data_dir, swap_template)
    with pytest.raises(ReleaseError, match=r"template is .* was released") as caught:
        begin(data_dir, lab)
    assert "tokenizer" not in caught.value.message


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"guard": "off"}, "guard"),
        ({"answer_tokens": 7}, "sampling"),
        ({"document_context_tokens": 100}, "sampling"),
        ({"weights": "float32"}, "graph"),
        ({"drift_budget": 0.05}, "adaptation"),
        ({"rank": 3}, "adaptation"),
        ({"learning": False}, "adaptation"),
    ],
)
def test_a_release_for_another_guard_or_other_settings_is_refused(
    lab: Lab, data_dir: Path, given: dict[str, Any], name: str
) -> None:
    with pytest.raises(ReleaseError, match=f"{name} is .* was released") as caught:
        begin(data_dir, lab, **given)
    assert caught.value.code == "release_other_subjects"


@pytest.mark.parametrize("change", ["other guard", "without guard", "with more", "weights alone"])
def test_a_release_must_be_for_all_of_it_and_nothing_else(
    lab: Lab, data_dir: Path, change: str
) -> None:
    subjects = {
        "other guard": {**lab.subjects, "guard": "0" * 64},
        "without guard": {name: d for name, d in lab.subjects.items() if name != "guard"},
        "with more": {**lab.subjects, "voice": "0" * 64},
        "weights alone": {"weights": lab.subjects["weights"]},
    }[change]
    (data_dir / "release.json").write_bytes(make_release(lab, subjects=subjects))
    with pytest.raises(ReleaseError, match="for something else than what is served") as caught:
        begin(data_dir, lab)
    assert caught.value.code == "release_other_subjects"


def unsign(envelope: bytes) -> bytes:
    return json.dumps({**json.loads(envelope), "signatures": []}).encode()


def resign(lab: Lab) -> bytes:
    """Put a stranger's signature under the name of the key that is trusted."""
    ours, theirs = (json.loads(make_release(lab, by=by)) for by in (lab.signer, lab.stranger))
    theirs["signatures"][0]["keyid"] = ours["signatures"][0]["keyid"]
    return json.dumps(theirs).encode()


def extend(envelope: bytes) -> bytes:
    """Move a release's end ten years on, and keep its signature."""
    table = json.loads(envelope)
    statement = json.loads(base64.b64decode(table["payload"]))
    statement["predicate"]["expires_at"] += 3650 * DAY_S
    table["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return json.dumps(table).encode()


BAD: dict[str, tuple[Callable[[Lab], bytes], str, str]] = {
    "expired": (
        lambda lab: make_release(lab, days_ago=20),
        "release_expired",
        r"expired 10\.0 days ago",
    ),
    "not valid yet": (
        lambda lab: make_release(lab, days_ago=-2),
        "release_not_yet_valid",
        "in the future",
    ),
    "unsigned": (lambda lab: unsign(make_release(lab)), "release_unsigned", "is not signed"),
    "signed by another key": (
        lambda lab: make_release(lab, by=lab.stranger),
        "release_wrong_key",
        "none of that is trusted here",
    ),
    "signed by another key under our name": (resign, "release_altered", "signature does not fit"),
    "prolonged": (
        lambda lab: extend(make_release(lab)),
        "release_altered",
        "changed after it was signed",
    ),
    "failed": (
        lambda lab: make_release(lab, failed=30),
        "release_not_passed",
        "not every risk passed.*harm: FAIL",
    ),
    "without enough evidence": (
        lambda lab: make_release(lab, failed=4),
        "release_not_passed",
        "harm: NOT ENOUGH EVIDENCE",
    ),
    "garbage": (lambda _: b"\x00\xff" * 100, "release_malformed", "not valid JSON"),
    "empty": (lambda _: b"", "release_malformed", "not valid JSON"),
    "deep": (lambda _: b"[" * 100_000, "release_malformed", "not valid JSON"),
    "something else": (lambda _: b"{}", "release_malformed", "no DSSE envelope"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_release_is_refused_with_its_reason(lab: Lab, data_dir: Path, name: str) -> None:
    make, code, why = BAD[name]
    (data_dir / "release.json").write_bytes(make(lab))
    with pytest.raises(ReleaseError, match=why) as caught:
        begin(data_dir, lab)
    assert caught.value.code == code
    assert refusals(data_dir) == [code]


def test_missing_files_are_refused(lab: Lab, data_dir: Path) -> None:
    with pytest.raises(NotFoundError, match="no file at"):
        begin(data_dir, lab, release=data_dir / "none.json")
    with pytest.raises(InputError, match="is a private key"):
        open_service(
            choose(
                data_dir,
                mode="production",
                release=data_dir / "release.json",
                release_key=lab.signer,
            )
        )
    with pytest.raises(InputError, match="needs the setting release_key"):
        open_service(choose(data_dir, mode="production", release=data_dir / "release.json"))
    assert len(refusals(data_dir)) == 3


def hold(lab: Lab, **given: Any) -> Release:
    trusted = key.load_public(lab.signer.with_name("signer.pub"))
    return verify(make_release(lab, **given), keys=[trusted], now=time.time())


def test_a_release_that_ends_while_it_runs_stops_answers(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    clearance = clear(hold(lab), subjects=lab.subjects)
    clearance.require()
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 11 * DAY_S)
    with pytest.raises(ReleaseEndedError, match="expired") as caught:
        clearance.require()
    assert (caught.value.status, caught.value.code) == (503, "release_expired")
    assert not clearance.tell().released


def test_setting_the_clock_back_does_not_prolong_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    before_s, passed_s = clock.now(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: before_s - 100 * DAY_S)
    monkeypatch.setattr(time, "monotonic", lambda: passed_s + 5)
    assert before_s + 4 < clock.now() < before_s + 10


def make_version(drift: float | None) -> Version:
    return Version(
        session="s",
        number=3,
        parent=0,
        reading=None,
        tokens_learned=1,
        updates=1,
        drift=drift,
        bytes=1,
        sha256="",
        created_at=1.0,
    )


@pytest.mark.parametrize(
    ("budget", "drift", "why"),
    [
        (0.04, 0.041, "over the 0.0400 that was tested"),
        (0.04, None, "never measured"),
        (0.04, float("nan"), "over the"),
        (None, 0.0, "covers the base alone"),
        (0.04, 0.04, None),
        (0.04, 0.0, None),
    ],
)
def test_only_versions_inside_the_drift_budget_are_covered(
    lab: Lab, budget: float | None, drift: float | None, why: str | None
) -> None:
    clearance = clear(hold(lab, drift_budget=budget), subjects=lab.subjects)
    if why is None:
        clearance.require_covered(make_version(drift))
        return
    with pytest.raises(ConflictError, match=why) as caught:
        clearance.require_covered(make_version(drift))
    assert caught.value.code == "version_not_covered"
    Clearance(subjects={}).require_covered(make_version(drift))  # development serves itself alone


def test_differences_are_told_by_name() -> None:
    told = compare({"a": "0" * 64, "b": "1" * 64}, {"b": "2" * 64, "c": "3" * 64})
    assert told == [
        "a was released, but is nothing that is served here",
        "b is 222222222222…, 111111111111… was released",
        "c is served, but was not released",
    ]
