"""`fluvial gate`: the whole way from a plan to a release, and every refusal on it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fluvial.cli.main import run
from fluvial.gate import plan as plans
from fluvial.gate import result
from fluvial.gate.evidence import Evidence
from fluvial.gate.ledger import Ledger, find_ledger
from tests.gate.made import SUBJECTS, make_evidence, make_results

Capture = pytest.CaptureFixture[str]
TEMPLATE = """
name = "small"

[[risks]]
name = "harm"
task = "fluvial/harm"
bar = 0.1
samples = 60

[[risks]]
name = "floor"
task = "fluvial/floor"
bar = 0.5
direction = "at_least"
samples = 40

[seconds_per_sample]
harm = 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "template.toml").write_text(TEMPLATE)
    return tmp_path


def fluvial(capsys: Capture, *args: str, code: int = 0) -> str:
    """Run a command that ends with this code; return its output, or its complaint."""
    capsys.readouterr()
    assert run(["gate", *args]) == code, capsys.readouterr()
    found = capsys.readouterr()
    return found.out if code == 0 else found.err


def judge(capsys: Capture, *args: str) -> dict[str, Any]:
    return json.loads(fluvial(capsys, "verdict", *args, "--json"))


def write_plan(capsys: Capture, name: str = "plan.json") -> Path:
    fluvial(capsys, "plan", "--template", "template.toml", "-o", name, "--model", "tiny")
    return Path(name)


def finish(path: Path, folder: Path, *seen: Evidence) -> Path:
    """Do what a run does beside testing: put it on record and write its results."""
    plan = plans.load(path)
    ledger = Ledger(find_ledger(folder / "data"))
    ledger.start(plan, subjects=SUBJECTS)
    results = make_results(plan, *seen)
    ledger.end(results)
    result.save(results, folder / "results.json")
    return folder / "results.json"


@pytest.mark.parametrize(
    ("trials", "failures", "bar", "verdict"),
    [
        ("299", "0", "0.01", "PASS"),
        ("298", "0", "0.01", "NOT ENOUGH EVIDENCE"),
        ("30", "10", "0.1", "FAIL"),
        ("5", "0", "0.46", "PASS"),
    ],
)
def test_a_verdict_on_plain_counts(
    capsys: Capture, trials: str, failures: str, bar: str, verdict: str
) -> None:
    args = ["--trials", trials, "--failures", failures, "--bar", bar]
    out = fluvial(capsys, "verdict", *args)
    assert out.startswith(f"{verdict}: {failures} failures in {trials} trials")
    found = judge(capsys, *args)
    assert found["verdict"] == verdict
    assert (found["trials"], found["failures"], found["bar"]) == (
        int(trials),
        int(failures),
        float(bar),
    )


def test_a_verdict_tells_the_interval_and_what_a_pass_would_need(capsys: Capture) -> None:
    args = ["--trials", "30", "--failures", "0", "--bar", "1%"]
    out = fluvial(capsys, "verdict", *args)
    assert "between 0 % and 9.5034 %" in out
    assert "269 further clean trials would pass" in out
    assert "as a new attempt" in " ".join(out.split())
    found = judge(capsys, *args)
    assert found["further_clean"] == 269
    assert found["bound_above"] == pytest.approx(0.0950338, abs=1e-6)


def test_ways_to_judge(capsys: Capture) -> None:
    args = ["--trials", "320", "--failures", "0", "--bar", "1%"]
    assert judge(capsys, *args)["verdict"] == "PASS"
    assert judge(capsys, *args, "--anytime")["verdict"] == "NOT ENOUGH EVIDENCE"
    assert judge(capsys, *args, "--confidence", "99%")["verdict"] == "NOT ENOUGH EVIDENCE"
    floor = judge(capsys, "--trials", "29", "--failures", "0", "--bar", "0.9", "--at-least")
    assert floor["verdict"] == "PASS"
    assert "new attempt" not in fluvial(capsys, "verdict", *args, "--anytime")


def test_exit_codes_for_scripts(capsys: Capture) -> None:
    for failures, code in (("0", 0), ("30", 3), ("2", 4)):
        args = ["verdict", "--trials", "30", "--failures", failures, "--bar", "0.1", "--exit-code"]
        with pytest.raises(SystemExit) as caught:
            run(["gate", *args])
        assert caught.value.code == code


@pytest.mark.parametrize(
    "change",
    [
        {"--bar": "nan"},
        {"--bar": "inf"},
        {"--bar": "0"},
        {"--bar": "100%"},
        {"--bar": "-0.1"},
        {"--trials": "-1"},
        {"--trials": "9" * 400},
        {"--failures": "-1"},
        {"--failures": "301"},
        {"--confidence": "nan"},
        {"--confidence": "1"},
        {"--confidence": "0"},
    ],
)
def test_counts_that_are_none(capsys: Capture, change: dict[str, str]) -> None:
    given = {"--trials": "300", "--failures": "0", "--bar": "0.01", **change}
    args = [f"{name}={value}" for name, value in given.items()]
    complaint = fluvial(capsys, "verdict", *args, code=1)
    assert complaint.startswith("error: ")
    assert len(complaint) < 300


def test_a_bar_that_is_a_word(capsys: Capture) -> None:
    args = ["--trials", "300", "--failures", "0", "--bar", "low"]
    assert "write 0.01 or 1%" in fluvial(capsys, "verdict", *args, code=2)


def test_sizes(capsys: Capture) -> None:
    found = json.loads(fluvial(capsys, "size", "--bar", "1%", "--json"))
    assert found["clean"] == 348
    assert found["power"]["0.9"] == 1132
    assert "1132" in fluvial(capsys, "size", "--bar", "1%")
    anytime = json.loads(fluvial(capsys, "size", "--bar", "1%", "--anytime", "--json"))
    assert anytime["clean"] > found["clean"]
    hopeless = fluvial(capsys, "size", "--bar", "1%", "--share", "2%")
    assert "none" in hopeless


def test_a_plan_is_written_once_and_put_on_record(capsys: Capture, folder: Path) -> None:
    out = fluvial(
        capsys, "plan", "--template", "template.toml", "-o", "plan.json", "--model", "tiny"
    )
    plan = plans.load(folder / "plan.json")
    assert plans.digest(plan) in out
    assert "attempt 1 of tiny" in out
    assert "2 min 0 s" in out
    entries = Ledger(find_ledger(folder / "data")).list_entries()
    assert [(e.event, e.plan_sha256) for e in entries] == [("planned", plans.digest(plan))]
    before = (folder / "plan.json").read_bytes()
    args = ["plan", "--template", "template.toml", "-o", "plan.json", "--model", "tiny"]
    assert "never written over" in fluvial(capsys, *args, code=1)
    assert (folder / "plan.json").read_bytes() == before


def test_a_plan_as_json_with_a_seed(capsys: Capture, folder: Path) -> None:
    args = ["--template", "template.toml", "--model", "tiny", "--seed", "5", "--lineage", "line"]
    found = json.loads(fluvial(capsys, "plan", *args, "-o", "a.json", "--json"))
    assert found["plan"]["seed"] == 5
    assert found["plan"]["lineage"] == "line"
    assert found["sha256"] == plans.digest(plans.load(folder / "a.json"))
    fluvial(capsys, "plan", *args[:4], "-o", "b.json")
    fluvial(capsys, "plan", *args[:4], "-o", "c.json")
    drawn = {plans.load(folder / name).seed for name in ("b.json", "c.json")}
    assert len(drawn) == 2


def test_a_plan_that_can_hardly_pass_says_so(capsys: Capture, folder: Path) -> None:
    (folder / "template.toml").write_text(TEMPLATE.replace("samples = 60", "samples = 20"))
    args = ["--template", "template.toml", "-o", "plan.json", "--model", "tiny"]
    out = " ".join(fluvial(capsys, "plan", *args).split())
    assert "none passes" in out
    assert "even if all is well: harm;" in out


def test_judges_without_a_record_are_said_to_have_none(capsys: Capture, folder: Path) -> None:
    (folder / "template.toml").write_text(
        TEMPLATE.replace("samples = 60", 'samples = 60\njudge = "people"')
        + '\n[[judges]]\nname = "people"\n'
    )
    args = ["--template", "template.toml", "-o", "plan.json", "--model", "tiny"]
    assert "judge people: no record" in fluvial(capsys, "plan", *args)


def test_from_a_plan_to_a_release(capsys: Capture, folder: Path) -> None:
    results = finish(write_plan(capsys), folder)
    keys = fluvial(capsys, "keygen", "key")
    assert "keep it off every server" in keys
    out = fluvial(capsys, "sign", str(results), "--key", "key", "-o", "release.json")
    assert "PASS" in out
    assert "never valid" not in out
    out = fluvial(capsys, "verify", "release.json", "--key", "key.pub")
    assert out.startswith("valid: ")
    assert "a" * 64 in out
    out = fluvial(capsys, "show", "release.json", "--key", "key.pub", "--html", "report.html")
    assert "harm" in out
    assert "at most 0.05 nats a token from the base, canaries dddddddddddd" in out
    assert "is good" in out
    page = (folder / "report.html").read_text()
    assert "<svg" in page
    assert "not checked" not in page
    shown = json.loads(fluvial(capsys, "show", "release.json", "--json"))
    assert shown["passed"] is True
    assert shown["plan_sha256"] == plans.digest(plans.load(folder / "plan.json"))
    assert "not checked" in shown["note"]


def test_a_release_that_did_not_pass_does_not_verify(capsys: Capture, folder: Path) -> None:
    results = finish(write_plan(capsys), folder, make_evidence(60, 30), make_evidence(40))
    fluvial(capsys, "keygen", "key")
    out = fluvial(capsys, "sign", str(results), "--key", "key", "-o", "release.json")
    assert "never valid for production" in out
    complaint = fluvial(capsys, "verify", "release.json", "--key", "key.pub", code=1)
    assert "harm: FAIL" in complaint


def test_a_release_of_another_key_does_not_verify_and_is_shown_as_such(
    capsys: Capture, folder: Path
) -> None:
    results = finish(write_plan(capsys), folder)
    for name in ("key", "other"):
        fluvial(capsys, "keygen", name)
    fluvial(capsys, "sign", str(results), "--key", "other", "-o", "release.json")
    complaint = fluvial(capsys, "verify", "release.json", "--key", "key.pub", code=1)
    assert "none of that is trusted" in complaint
    args = ["show", "release.json", "--key", "key.pub", "--html", "report.html"]
    assert "NOT VALID: " in fluvial(capsys, *args)
    assert "NOT VALID: " in (folder / "report.html").read_text()
    both = ["verify", "release.json", "--key", "key.pub", "--key", "other.pub"]
    assert "valid: " in fluvial(capsys, *both)
    assert "--key" in fluvial(capsys, "verify", "release.json", code=2)


def test_results_of_testing_again_are_not_signed(capsys: Capture, folder: Path) -> None:
    path = write_plan(capsys)
    finish(path, folder, make_evidence(60, 30), make_evidence(40))
    fluvial(capsys, "keygen", "key")
    result.save(make_results(plans.load(path)), folder / "better.json")
    args = ["sign", "better.json", "--key", "key", "-o", "release.json"]
    assert "ended with other results" in fluvial(capsys, *args, code=1)
    assert not (folder / "release.json").exists()
    out = fluvial(
        capsys, "plan", "--template", "template.toml", "-o", "second.json", "--model", "tiny"
    )
    assert "attempt 2 of tiny" in out


def test_a_plan_changed_after_the_run_is_not_signed(capsys: Capture, folder: Path) -> None:
    path = write_plan(capsys)
    results = result.load(finish(path, folder))
    easy = replace(results.plan, risks=(replace(results.plan.risks[0], bar=0.9),))
    result.save(replace(results, plan=easy), folder / "easy.json")
    fluvial(capsys, "keygen", "key")
    args = ["sign", "easy.json", "--key", "key", "-o", "release.json"]
    assert "it was changed" in fluvial(capsys, *args, code=1)


def test_attempts_are_listed(capsys: Capture, folder: Path) -> None:
    finish(write_plan(capsys), folder)
    write_plan(capsys, "second.json")
    out = fluvial(capsys, "attempts")
    events = [line.split()[2] for line in out.splitlines() if line.startswith("tiny ")]
    assert events == ["planned", "started", "ended", "planned"]
    assert "tiny: attempt 2 is next, with 0.0076 of" in out
    listed = json.loads(fluvial(capsys, "attempts", "--json"))
    assert [entry["attempt"] for entry in listed] == [1, 1, 1, 2]


def test_a_release_without_terms_of_adapting_covers_the_base_alone(
    capsys: Capture, folder: Path
) -> None:
    plan = plans.load(write_plan(capsys))
    ledger = Ledger(find_ledger(folder / "data"))
    ledger.start(plan, subjects=SUBJECTS)
    results = replace(make_results(plan), adaptation=result.Adaptation())
    ledger.end(results)
    result.save(results, folder / "results.json")
    fluvial(capsys, "keygen", "key")
    out = fluvial(capsys, "sign", "results.json", "--key", "key", "-o", "release.json")
    assert "covers the base alone" in out


def test_a_ledger_of_another_place(capsys: Capture, folder: Path) -> None:
    results = finish(write_plan(capsys), folder)
    fluvial(capsys, "keygen", "key")
    moved = find_ledger(folder / "data").rename(folder / "moved.jsonl")
    args = ["sign", str(results), "--key", "key", "-o", "release.json"]
    assert "no finished run" in fluvial(capsys, *args, code=1)
    assert "PASS" in fluvial(capsys, *args, "--ledger", str(moved))


def test_a_locked_key_asks_for_its_passphrase(
    capsys: Capture, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["secret", "secret", "secret", "wrong"]
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda prompt: typed.pop(0))
    results = finish(write_plan(capsys), folder)
    fluvial(capsys, "keygen", "key", "--passphrase")
    assert "ENCRYPTED" in (folder / "key").read_text()
    fluvial(capsys, "sign", str(results), "--key", "key", "-o", "a.json")
    assert "valid: " in fluvial(capsys, "verify", "a.json", "--key", "key.pub")
    complaint = fluvial(capsys, "sign", str(results), "--key", "key", "-o", "b.json", code=1)
    assert "not by this passphrase" in complaint
    assert not (folder / "b.json").exists()
    assert typed == []


def test_files_that_are_no_results_and_no_releases(capsys: Capture, folder: Path) -> None:
    fluvial(capsys, "keygen", "key")
    (folder / "text").write_text("[]")
    with (folder / "large").open("wb") as file:
        file.truncate(100_000_000)
    for name in ("text", "large", "none", "."):
        for args in (
            ["sign", name, "--key", "key", "-o", "out"],
            ["verify", name, "--key", "key.pub"],
            ["show", name],
        ):
            complaint = fluvial(capsys, *args, code=2 if name == "." else 1)
            assert "rror: " in complaint
    assert not (folder / "out").exists()


def test_texts_of_a_release_do_not_steer_the_terminal(capsys: Capture, folder: Path) -> None:
    path = folder / "template.toml"
    path.write_text(
        TEMPLATE.replace('"harm"', '"h\\u202earm"').replace("harm =", '"h\\u202earm" =')
    )
    results = finish(write_plan(capsys), folder)
    fluvial(capsys, "keygen", "key")
    fluvial(capsys, "sign", str(results), "--key", "key", "-o", "release.json")
    assert "\u202e" not in fluvial(capsys, "show", "release.json")
