"""`fluvial gate run`: a plan on record, a server of its own or another's, results in a file."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluvial.cli.main import run
from fluvial.gate import result
from fluvial.gate.ledger import Ledger, find_ledger
from fluvial.model.catalogue import Entry
from fluvial.model.registry import Registry
from tests.gate.stand_in import MODEL, StandIn, stand_in
from tests.gate.wheels import make_opener

Capture = pytest.CaptureFixture[str]
TEMPLATE = """
name = "small"
[[risks]]
name = "sums"
task = "fluvial/sums"
bar = 0.4
direction = "at_least"
samples = 12
"""


def answer_sums(body: dict[str, Any]) -> str:
    one, sign, other = body["messages"][0]["content"].split("?")[0].split()[-3:]
    return str(int(one) + int(other) if sign == "+" else int(one) - int(other))


@pytest.fixture
def plan(tmp_path: Path, capsys: Capture) -> Path:
    """A plan on record."""
    template, plan = tmp_path / "small.toml", tmp_path / "plan.json"
    template.write_text(TEMPLATE, encoding="utf-8")
    options = ["--template", str(template), "-o", str(plan), "--model", MODEL, "--seed", "4"]
    assert run(["gate", "plan", *options]) == 0
    capsys.readouterr()
    return plan


@pytest.fixture
def server() -> Iterator[StandIn]:
    with stand_in(answer_sums) as found:
        yield found


def list_events(tmp_path: Path) -> list[str]:
    return [entry.event for entry in Ledger(find_ledger(tmp_path / "data")).list_entries()]


def run_plan(plan: Path, *options: str) -> int:
    return run(["gate", "run", str(plan), "--log-dir", str(plan.parent / "logs"), *options])


def test_a_run_shows_and_keeps_its_verdicts(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    assert run_plan(plan, "--url", server.url) == 0
    said = capsys.readouterr()
    assert "PASS" in said.out
    assert "0 of 12" in said.out
    assert "1/1 sums: 100%" in said.err
    found = result.load(tmp_path / "plan.results.json")
    assert [risk.verdict for risk in found.risks] == ["PASS"]
    assert list((tmp_path / "logs").glob("*.eval"))
    assert list_events(tmp_path) == ["planned", "started", "ended"]


def test_a_plan_that_changed_is_refused(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    fields = json.loads(plan.read_text(encoding="utf-8"))
    fields["risks"][0]["bar"] = 0.01
    plan.write_text(json.dumps(fields), encoding="utf-8")
    assert run_plan(plan, "--url", server.url) == 1
    assert "the plan changed after it was written" in capsys.readouterr().err
    assert not server.asked
    assert not (tmp_path / "plan.results.json").exists()


def test_a_plan_that_is_not_on_record_is_refused(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    assert run_plan(plan, "--url", server.url, "--data-dir", str(tmp_path / "other")) == 1
    assert "not on record" in capsys.readouterr().err
    assert not server.asked


def test_a_try_does_not_end_the_attempt(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    output = tmp_path / "try.json"
    assert run_plan(plan, "--url", server.url, "--limit", "3", "-o", str(output)) == 0
    assert "NOT ENOUGH EVIDENCE" in capsys.readouterr().out
    assert result.load(output).risks[0].evidence.errors == 9
    assert list_events(tmp_path) == ["planned", "started"]
    assert run_plan(plan, "--url", server.url) == 0
    assert list_events(tmp_path) == ["planned", "started", "ended"]


def test_what_was_tried_on_one_model_is_not_tested_on_another(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    assert run_plan(plan, "--url", server.url, "--limit", "12") == 0
    server.subjects["guard"] = "7" * 64
    asked = len(server.asked)
    assert run_plan(plan, "--url", server.url) == 1
    assert "write a new plan" in capsys.readouterr().err
    assert len(server.asked) == asked
    assert list_events(tmp_path) == ["planned", "started"]


def test_ctrl_c_keeps_what_was_seen(
    plan: Path, server: StandIn, tmp_path: Path, capsys: Capture
) -> None:
    def reply(body: dict[str, Any]) -> str:
        if len(server.asked) == 9:
            os.kill(os.getpid(), signal.SIGINT)
        return answer_sums(body)

    server.reply = reply
    with pytest.raises(SystemExit) as left:
        run_plan(plan, "--url", server.url)
    assert left.value.code == 130
    assert "NOT ENOUGH EVIDENCE" in capsys.readouterr().out
    found = result.load(tmp_path / "plan.results.json").risks[0]
    assert 0 < found.evidence.samples < 12
    assert list_events(tmp_path) == ["planned", "started"]


def test_what_is_known_after_each_risk_is_kept(
    plan: Path, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the machine burns")

    monkeypatch.setattr("fluvial.gate.run.find_trouble", fail)
    with pytest.raises(OSError, match="burns"):
        run_plan(plan, "--url", server.url)
    assert result.load(tmp_path / "plan.results.json").risks[0].verdict == "PASS"
    assert list_events(tmp_path) == ["planned", "started"]


def test_samples_that_broke_are_told_of(plan: Path, capsys: Capture) -> None:
    with stand_in(lambda body: (500, {"error": {"message": "out of luck"}})) as server:
        assert run_plan(plan, "--url", server.url) == 0
    assert "sums: 12 samples broke, most often: " in capsys.readouterr().out


def test_judges_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    opener = make_opener(tmp_path / "wheels")
    monkeypatch.setattr("fluvial.gate.package.open_package", lambda package, **_: opener(package))
    assert run(["gate", "calibrate-judge"]) == 0
    assert "compliance-rules" in capsys.readouterr().out
    assert run(["gate", "calibrate-judge", "refusal-rules", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    counts = record["calibration"]
    assert counts["caught"] == counts["positives"]
    assert counts["positives"] + counts["negatives"] > 0
    assert run(["gate", "calibrate-judge", "nobody"]) == 1


def test_no_plan_is_wrong_usage(tmp_path: Path) -> None:
    assert run(["gate", "run", str(tmp_path / "none.json")]) == 2


def test_a_wrong_address_is_told(plan: Path, capsys: Capture) -> None:
    assert run_plan(plan, "--url", "nonsense") == 1
    assert "http://HOST:PORT" in capsys.readouterr().err


@pytest.mark.usefixtures("native_library")
def test_without_an_address_a_server_is_started_and_ended(
    plan: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """On a seeded model, whose sums are wrong."""
    Registry(tmp_path / "data").install(Entry(name=MODEL, sources=(f"file:{tiny_model}",)))
    monkeypatch.setenv("FLUVIAL_LEARNING", "false")
    monkeypatch.setenv("FLUVIAL_THREADS", "1")
    monkeypatch.setenv("FLUVIAL_MODE", "production")
    assert run_plan(plan) == 0
    said = capsys.readouterr()
    assert "starting a server with tiny" in said.err
    found = result.load(tmp_path / "plan.results.json")
    assert found.risks[0].verdict == "FAIL"
    assert {"weights", "tokenizer", "template", "guard", "sampling"} <= set(found.subjects)
    assert not list((tmp_path / "data").glob("fluvial.sqlite3"))


def test_a_server_that_does_not_start_says_why(
    plan: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    Registry(tmp_path / "data").install(Entry(name=MODEL, sources=(f"file:{tiny_model}",)))
    monkeypatch.setenv("FLUVIAL_GUARD_POLICY", str(tmp_path / "none.toml"))
    assert run_plan(plan) == 1
    told = capsys.readouterr().err
    assert "did not start" in told
    assert "none.toml" in told
