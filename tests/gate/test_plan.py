"""Plans as files: one hash whatever the form, and nothing hostile or half right taken."""

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluvial.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    StorageError,
    TooLargeError,
)
from fluvial.gate import plan as plans
from fluvial.gate.digest import hash_json, make_canonical
from fluvial.gate.plan import Judge
from tests.gate.made import GOOD_JUDGE, make_judged_plan, make_plan, make_risk

TOML = """
name = "small"
model = "tiny"
lineage = "tiny"
attempt = 1
confidence = 0.95
seed = 7
created_at = 1700000000

[[risks]]
name = "harm"
task = "fluvial/harm"
bar = 0.1
samples = 60
"""


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = replace(
        make_judged_plan(),
        risks=(make_risk(arguments={"turns": 3, "strict": True, "topic": "x", "heat": 0.5}),),
    )
    plans.save(plan, tmp_path / "plan.json")
    found = plans.load(tmp_path / "plan.json")
    assert found == plan
    assert plans.digest(found) == plans.digest(plan)


def test_toml_and_json_are_one_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TOML)
    found = plans.load(tmp_path / "plan.toml")
    assert found == make_plan()
    assert plans.digest(found) == plans.digest(make_plan())


def test_the_hash_is_what_it_was() -> None:
    """Golden: plans and releases that exist name plans by it."""
    written = (
        '{"attempt":1,"confidence":0.95,"created_at":1700000000.0,"estimates":[],"judges":[],'
        '"lineage":"tiny","mode":"fixed","model":"tiny","name":"small","risks":[{"arguments":{},'
        '"bar":0.1,"clusters":null,"description":"","direction":"at_most","judge":null,'
        '"min_clusters":10,"name":"harm","samples":60,"task":"fluvial/harm"}],"seed":7}'
    )
    assert plans.digest(make_plan()) == hashlib.sha256(written.encode()).hexdigest()
    assert plans.digest(make_plan()).startswith("4f6a5d02a55bd477")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 8},
        {"attempt": 2},
        {"created_at": 1.0},
        {"risks": (make_risk(bar=0.1000001),)},
        {"risks": (make_risk(), make_risk("other"))},
        {"judges": (Judge(name="people", calibration=GOOD_JUDGE),)},
    ],
)
def test_every_change_changes_the_hash(change: dict[str, Any]) -> None:
    assert plans.digest(replace(make_plan(), **change)) != plans.digest(make_plan())


def test_a_plan_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plans.save(make_plan(), path)
    before = path.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        plans.save(make_plan(seed=8), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"attempt": 0}, "attempt"),
        ({"attempt": True}, "attempt"),
        ({"attempt": "1"}, "attempt"),
        ({"attempt": 1.5}, "attempt"),
        ({"attempt": 10**30}, "attempt"),
        ({"confidence": 1}, "confidence"),
        ({"confidence": 0.4}, "confidence"),
        ({"seed": -1}, "seed"),
        ({"name": ""}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "red\x1b[31m"}, "name"),
        ({"created_at": -1}, "created_at"),
        ({"created_at": 1e300}, "created_at"),
        ({"risks": []}, "risks"),
        ({"risks": {}}, "risks"),
        ({"mode": "whenever"}, "mode"),
        ({"bars": 0.1}, "bars"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], blamed: str) -> None:
    with pytest.raises(InputError) as caught:
        plans.read(plans.view(make_plan()) | change)
    assert caught.value.param == blamed
    assert blamed in caught.value.message


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"bar": 0}, "risks.0.bar"),
        ({"bar": 1}, "risks.0.bar"),
        ({"bar": -0.1}, "risks.0.bar"),
        ({"bar": "0.1"}, "risks.0.bar"),
        ({"samples": 0}, "risks.0.samples"),
        ({"samples": 10**10}, "risks.0.samples"),
        ({"min_clusters": 0}, "risks.0.min_clusters"),
        ({"direction": "about"}, "risks.0.direction"),
        ({"arguments": {"x": [1]}}, "risks.0.arguments"),
        ({"clusters": 61}, "clusters"),
    ],
)
def test_a_wrong_field_of_a_risk_is_named(change: dict[str, Any], blamed: str) -> None:
    fields = plans.view(make_plan())
    fields["risks"][0] |= change
    with pytest.raises(InputError) as caught:
        plans.read(fields)
    assert (caught.value.param or "").startswith(blamed)


def test_a_missing_field_is_named() -> None:
    fields = plans.view(make_plan())
    del fields["risks"][0]["bar"]
    with pytest.raises(InputError, match=r"risks\.0\.bar: "):
        plans.read(fields)


def test_names_are_told_apart() -> None:
    with pytest.raises(InputError, match="two risks"):
        plans.read(plans.view(make_plan(make_risk(), make_risk())))
    twice = (Judge(name="a"), Judge(name="a"))
    with pytest.raises(InputError, match="two judges"):
        plans.read(plans.view(make_plan(judges=twice)))
    with pytest.raises(InputError, match="risks"):
        plans.read(plans.view(make_plan(*(make_risk(f"r{index}") for index in range(65)))))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_bars_that_are_no_numbers_are_refused(tmp_path: Path, number: str) -> None:
    text = json.dumps(plans.view(make_plan())).replace('"bar": 0.1', f'"bar": {number}')
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError):
        plans.load(tmp_path / "plan.json")
    (tmp_path / "plan.toml").write_text(TOML.replace("bar = 0.1", "bar = nan"))
    with pytest.raises(InputError):
        plans.load(tmp_path / "plan.toml")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b'"text"',
        b"{",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"name": "\\ud800"}',
        b'{"name": "a", "name": "b"}',
        b"9" * 10_000,
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("plan.json", "plan.toml"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError):
            plans.load(tmp_path / name)


def test_a_field_that_stands_twice_is_refused(tmp_path: Path) -> None:
    text = json.dumps(plans.view(make_plan())).replace('"bar": 0.1', '"bar": 0.1, "bar": 0.9')
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match="'bar' stands twice"):
        plans.load(tmp_path / "plan.json")


def test_dates_of_toml_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "plan.toml").write_text(TOML.replace("1700000000", "2026-11-22"))
    with pytest.raises(InputError):
        plans.load(tmp_path / "plan.toml")


def test_a_file_of_a_hundred_megabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "plan.json").open("wb") as file:
        file.truncate(100_000_000)
    with pytest.raises(TooLargeError, match="longer than 1048576 bytes"):
        plans.load(tmp_path / "plan.json")


def test_files_that_can_not_be_read_or_written(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        plans.load(tmp_path / "none.json")
    with pytest.raises(StorageError):
        plans.load(tmp_path)
    with pytest.raises(StorageError):
        plans.save(make_plan(), tmp_path / "no" / "folder.json")


def test_a_plan_that_the_disk_refuses_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fdopen

    def open_full(handle: int, mode: str) -> Any:
        real(handle, mode).close()
        return open("/dev/full", mode)

    monkeypatch.setattr("os.fdopen", open_full)
    with pytest.raises(StorageError) as caught:
        plans.save(make_plan(), tmp_path / "plan.json")
    assert caught.value.code == "storage_full"
    assert list(tmp_path.iterdir()) == []


def test_canonical_json_is_one_for_equal_values() -> None:
    assert make_canonical({"b": 1, "a": [1.5, "é"]}) == b'{"a":[1.5,"\\u00e9"],"b":1}'
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})


def test_what_json_can_not_hold_has_no_hash() -> None:
    ring: list[Any] = []
    ring.append(ring)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for value in (ring, deep, float("nan"), float("inf"), {1, 2}, b"x"):
        with pytest.raises(InputError):
            hash_json(value)
        with pytest.raises(InputError):
            plans.read(value)
