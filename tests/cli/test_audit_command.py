"""`fluvial audit`: list, verify, export."""

import json
from pathlib import Path

import pytest

from fluvial.cli.main import run
from fluvial.store.audit import AuditLog
from fluvial.store.audit_folder import AuditFolder
from tests.model.web import make_gguf

Capture = pytest.CaptureFixture[str]
SESSION = "sess_" + "0" * 24


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    log = AuditLog.open(tmp_path / "data", keep_texts=True)
    detail = {"category": "violence", **log.describe("a \x1b[31msecret", session=SESSION)}
    log.append("guard.refused", actor="local", subject=SESSION, detail=detail)
    log.append("version.created", actor="system", subject="x\x1b[2J", detail={"number": 1})
    return log


@pytest.mark.usefixtures("log")
def test_list_shows_what_was_asked_for(capsys: Capture) -> None:
    assert run(["audit", "list"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert [name in out for name in ("audit.begun", "guard.refused", "version.created")] == [1] * 3
    assert run(["audit", "list", "--kind", "guard", "--subject", SESSION, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["detail"]["category"] == "violence"
    assert "secret" not in line
    assert run(["audit", "list", "--last", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "version.created"


def test_kept_texts_are_shown_on_demand_only(log: AuditLog, capsys: Capture) -> None:
    assert run(["audit", "list"]) == 0
    assert "secret" not in capsys.readouterr().out
    assert run(["audit", "list", "--texts"]) == 0
    assert "2: a \N{REPLACEMENT CHARACTER}[31msecret" in capsys.readouterr().out
    log.forget(SESSION)
    assert run(["audit", "list", "--texts"]) == 0
    assert "2: (not kept)" in capsys.readouterr().out


def test_verify_names_the_first_broken_entry(
    log: AuditLog, tmp_path: Path, capsys: Capture
) -> None:
    assert run(["audit", "verify"]) == 0
    out = capsys.readouterr().out
    assert out == f"whole: 3 entries, 1 to 3\nhead 3:{log.head.sha256}\n"
    assert run(["audit", "verify", "--head", f"3:{log.head.sha256}"]) == 0
    assert run(["audit", "verify", "--head", f"3:{'0' * 64}"]) == 1
    assert "broken at entry 3: entry 3 is another one" in capsys.readouterr().err
    assert run(["audit", "verify", "--head", "3:xyz"]) == 2
    (path,) = AuditFolder(tmp_path / "data").list_segments()
    path.write_bytes(path.read_bytes().replace(b"violence", b"violins!"))
    capsys.readouterr()
    assert run(["audit", "verify"]) == 1
    assert "broken at entry 2: entry 2 was changed" in capsys.readouterr().err
    assert run(["audit", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["broken"] == 2


def test_a_copy_can_be_verified_elsewhere(log: AuditLog, tmp_path: Path, capsys: Capture) -> None:
    copy = tmp_path / "copy.jsonl"
    assert run(["audit", "export", str(copy)]) == 0
    head = f"3:{log.head.sha256}"
    assert head in capsys.readouterr().out
    assert run(["audit", "verify", str(copy), "--head", head]) == 0
    assert run(["audit", "export", str(copy)]) == 2
    copy.write_bytes(b"".join(copy.read_bytes().splitlines(keepends=True)[:2]))
    assert run(["audit", "verify", str(copy), "--head", head]) == 1
    assert "entries 3 to 3 are missing" in capsys.readouterr().err
    assert run(["audit", "verify", str(tmp_path / "none")]) == 1


def test_what_commands_do_to_models_is_on_record(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "small.gguf").write_bytes(make_gguf(100_000))
    assert run(["models", "pull", f"file:{tmp_path / 'small.gguf'}"]) == 0
    assert run(["models", "remove", "small"]) == 0
    capsys.readouterr()
    assert run(["audit", "list", "--kind", "model", "--json"]) == 0
    installed, removed = map(json.loads, capsys.readouterr().out.splitlines())
    assert (installed["kind"], installed["actor"]) == ("model.installed", "operator")
    assert len(installed["detail"]["sha256"]) == 64
    assert (removed["kind"], removed["subject"]) == ("model.removed", "small")


def test_no_log_is_told(capsys: Capture) -> None:
    assert run(["audit", "verify"]) == 1
    assert run(["audit", "list"]) == 1
    assert capsys.readouterr().err.count("there is no audit log in") == 2
