"""`fluvial chat`, `read` and `sessions` against a scripted server."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fluvial.cli.client import choose_url
from fluvial.cli.main import run
from fluvial.config import Settings
from tests.cli.api import Api

Capture = pytest.CaptureFixture[str]


def feed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_one_message_is_answered_and_signed(api: Api, capsys: Capture) -> None:
    assert run(["chat", "-m", "Hi"]) == 0
    out, err = capsys.readouterr()
    assert out == "Hello\n"
    assert "version 3 · 2 tokens" in err
    method, path, body = api.calls[-1]
    assert (method, path) == ("POST", "/v1/chat/completions")
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert body["fluvial"] == {"session": "sess_1", "parent": None}
    assert body["stream"] is True


def test_a_conversation_goes_on_from_the_last_message_seen(
    api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.add_session("sess_7")
    api.messages["sess_7"] = [{"id": "msg_1", "role": "assistant", "content": "x"}]
    feed(monkeypatch, "one", "", "//two", "/quit", "never")
    assert run(["chat", "sess_7"]) == 0
    bodies = [body for _, path, body in api.calls if path == "/v1/chat/completions"]
    assert [body["messages"][0]["content"] for body in bodies] == ["one", "/two"]
    assert [body["fluvial"]["parent"] for body in bodies] == ["msg_1", "msg_2"]
    assert capsys.readouterr().out == "Hello\nHello\n"


def test_commands_inside_a_chat(
    api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = api.add_session("sess_7", version=2)
    api.add_version(1, 0)
    api.add_version(2, 1)
    (tmp_path / "doc.txt").write_text("text")
    api.add_reading("doc.txt", steps=[0, 10])
    feed(
        monkeypatch,
        "/help",
        "/freeze",
        "/undo",
        f"/read {tmp_path}/doc.txt",
        "/read",
        "/read /nowhere",
        "/undo x",
        "/bogus",
        "/undo 0",
        "/undo",
    )
    assert run(["chat", "sess_7"]) == 0
    out, err = capsys.readouterr()
    assert "/undo [N]" in out
    assert session["learning"] == "frozen"
    assert [p for p in api.paths("POST") if p.endswith("restore")] == [
        "/v1/sessions/sess_7/versions/1/restore",
        "/v1/sessions/sess_7/versions/0/restore",
    ]
    assert "version 1 is in force" in err
    assert "version 0 is in force (the base)" in err
    assert "doc.txt" in out
    assert "/read needs a file" in err
    assert "error: /nowhere: No such file or directory" in err
    assert "/undo needs a version's number" in err
    assert "no command /bogus" in err
    assert "error: the base is in force: there is nothing to undo" in err


def test_a_conflict_is_told_and_the_chat_goes_on(
    api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.add_session("sess_7")
    api.error = {"code": "session_changed", "message": "another writer has moved on"}
    feed(monkeypatch, "one", "/help")
    assert run(["chat", "sess_7"]) == 0
    out, err = capsys.readouterr()
    assert "error: another writer has moved on" in err
    assert "/read FILE" in out


def test_escape_sequences_from_the_model_are_not_passed_on(api: Api, capsys: Capture) -> None:
    api.answer = ["\x1b]0;owned\x07", "ok"]
    assert run(["chat", "-m", "Hi"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_ctrl_c_stops_the_answer_in_the_server_too(api: Api) -> None:
    api.stall_after = 0
    child = subprocess.Popen(
        [sys.executable, "-m", "fluvial.cli", "chat", "-m", "Hi", "--url", api.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.read(3) == "Hel"
    assert api.stalled.wait(10)
    os.kill(child.pid, signal.SIGINT)
    out, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert out == "\n"
    assert "(stopped)" in err
    assert "Traceback" not in err
    assert "/v1/sessions/sess_1/stop" in api.paths("POST")


def test_read_shows_what_was_gained(api: Api, capsys: Capture, tmp_path: Path) -> None:
    for name in ("a.txt", "b.md"):
        (tmp_path / name).write_text("text")
    api.add_reading("a.txt", steps=[0, 50, 100])
    api.add_reading("b.md", steps=[0, 0, 0, 0, 0, 10], status="failed")
    api.readings[1]["error"] = "it broke"
    api.add_score(1, bytes=300, frozen_bits_per_byte=9.0)  # read again after a crash
    api.add_score(2, bytes=300, seconds=40.5)
    api.add_score(3, start=50, bytes=100, frozen_bits_per_byte=2.0, seconds=39.5, learned=False)
    api.add_version(1, 0)
    api.add_version(2, 1)
    api.version_begun = 2
    assert run(["read", "new", str(tmp_path / "a.txt"), str(tmp_path / "b.md")]) == 1
    out, err = capsys.readouterr()
    assert "session sess_1" in out
    row = next(line for line in out.splitlines() if line.startswith("a.txt"))
    gains = ["1.2500", "1.0000", "+20.00%"]
    assert row.split() == ["a.txt", "done", "100", *gains, "1", "min", "20", "s"]
    assert "a.txt: 1 of 2 chunks not learned from: 1 left out by the rule" in out
    assert "b.md: " not in out
    assert "version 2 (2d2d2d2d2d2d) is in force: drift 0.0010 of 0.1; evil" in out
    assert "\x1b" not in out
    assert "a.txt: 50%, 50 tokens of 100 tokens" in err
    assert "b.md: it broke" in err


def test_a_new_session_does_not_stay_behind_a_file_that_is_refused(
    api: Api, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "bad.pdf").write_text("not a pdf")
    assert run(["read", "new", str(tmp_path / "bad.pdf")]) == 1
    assert "error: bad.pdf can't be read" in capsys.readouterr().err
    assert api.paths("DELETE") == ["/v1/sessions/sess_1"]


def test_reading_into_an_unknown_session_sends_nothing(
    api: Api, capsys: Capture, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("text")
    assert run(["read", "sess_9/../x", str(tmp_path / "a.txt")]) == 1
    assert "no " in capsys.readouterr().err
    assert [path for _, path, _ in api.calls] == ["/v1/sessions/sess_9%2F..%2Fx"]


def test_sessions_can_be_listed_and_shown(api: Api, capsys: Capture) -> None:
    api.add_session("sess_1", title="Evil\x1b[2J title")
    api.messages["sess_1"] = [{"role": "user", "content": "hi \x07"}]
    api.add_reading("a.txt", steps=[7])
    assert run(["sessions", "list"]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert run(["sessions", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["id"] == "sess_1"
    assert run(["sessions", "show", "sess_1"]) == 0
    out = capsys.readouterr().out
    assert "context 5 of 4096 tokens" in out
    assert "7/7 tokens  a.txt" in out
    assert "\x07" not in out


def test_versions_undo_freeze(api: Api, capsys: Capture) -> None:
    session = api.add_session("sess_1", version=2)
    api.add_version(1, 0)
    api.add_version(2, 1)
    assert run(["sessions", "versions", "sess_1"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    rows = [[cell for cell in line.split("  ") if cell] for line in out.splitlines()]
    first = next(row for row in rows if row[0].startswith("1 pinned"))
    second = next(row for row in rows if row[0].startswith("2 *"))
    cells = [[cell.strip() for cell in row] for row in (first, second)]
    assert cells[0][1:8] == ["1d" * 6, "base", "read", "512", "1/3", "- -> -", "not measured"]
    assert cells[1][1:6] == ["2d" * 6, "1", "read", "512", "1/3"]
    assert cells[1][6:9] == ["1.1000 -> 0.9000", "0.0010 of 0.1", "1,000"]
    assert "* in force; 2,000 of 5,000 bytes" in out
    assert run(["sessions", "undo", "sess_1"]) == 0
    assert session["version"] == 1
    assert run(["sessions", "undo", "sess_1", "0"]) == 0
    assert session["version"] == 0
    assert run(["sessions", "undo", "sess_1"]) == 1
    assert run(["sessions", "freeze", "sess_1"]) == 0
    assert session["learning"] == "frozen"
    assert run(["sessions", "unfreeze", "sess_1"]) == 0
    assert session["learning"] == "on"


def test_export_never_overwrites_unasked(api: Api, tmp_path: Path, capsys: Capture) -> None:
    api.add_session("sess_1", version=2)
    target = tmp_path / "v.safetensors"
    assert run(["sessions", "export", "sess_1", "-o", str(target)]) == 0
    assert target.read_bytes() == b"tensors"
    target.write_bytes(b"mine")
    assert run(["sessions", "export", "sess_1", "1", "-o", str(target)]) == 1
    assert target.read_bytes() == b"mine"
    assert run(["sessions", "export", "sess_1", "1", "-o", str(target), "--force"]) == 0
    assert target.read_bytes() == b"tensors"
    assert "/v1/sessions/sess_1/versions/1/export" in api.paths("GET")
    api.sessions["sess_1"]["version"] = 0
    assert run(["sessions", "export", "sess_1"]) == 1
    assert "nothing to export" in capsys.readouterr().err


def test_delete_asks_first(api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    api.add_session("sess_1")
    feed(monkeypatch, "n")
    assert run(["sessions", "delete", "sess_1"]) == 130
    assert api.paths("DELETE") == []
    assert run(["sessions", "delete", "sess_1", "--yes"]) == 0
    assert api.paths("DELETE") == ["/v1/sessions/sess_1"]


def test_something_else_on_that_port_is_told(api: Api, capsys: Capture) -> None:
    from tests.model.web import Blob, run_stub

    with run_stub() as other:
        other.blobs["/v1/sessions?limit=50"] = Blob(b"<html>", "text/html")
        assert run(["sessions", "list", "--url", other.url]) == 1
        assert "is that a Fluvial server?" in capsys.readouterr().err
        assert run(["sessions", "show", "x", "--url", other.url]) == 1
        assert "answered HTTP 404; is that a Fluvial server?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8420"),
        ("0.0.0.0", "http://127.0.0.1:8420"),  # noqa: S104
        ("::", "http://[::1]:8420"),
        ("box.lan", "http://box.lan:8420"),
    ],
)
def test_the_server_is_looked_for_where_serve_would_listen(host: str, url: str) -> None:
    assert choose_url(None, settings=Settings(host=host, port=8420)) == url


def test_proxies_never_see_requests_to_this_machine(
    api: Api, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert run(["sessions", "list"]) == 0


def test_the_key_of_the_settings_is_sent(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(["sessions", "list"]) == 0
    monkeypatch.setenv("FLUVIAL_API_KEY", "a secret of sixteen")
    assert run(["sessions", "list"]) == 0
    assert api.keys == [None, "Bearer a secret of sixteen"]
