"""`fluvial guard show` and `check`."""

import io
import json
from pathlib import Path

import pytest

from fluvial.cli.main import run
from tests.guard.world import POLICY


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "policy.toml"
    file.write_text(POLICY, encoding="utf-8")
    return str(file)


def test_a_policy_is_read_back(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["guard", "show", "--policy", policy]) == 0
    shown = capsys.readouterr().out
    assert "checked every 2 tokens with 3 more kept" in shown
    assert "aurora" in shown
    assert run(["guard", "show", "--policy", policy, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["category"]["name"]["answer"] == "redact"
    assert told["guard"] == "on"


def test_a_policy_with_a_fault_is_refused(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(policy).write_text(POLICY.replace("debounce", "debonce") + "x = 1", encoding="utf-8")
    assert run(["guard", "show", "--policy", policy]) == 1
    assert "words.odd.x" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "place", "code", "said"),
    [
        ("of project aurora", "prompt", 3, "Ask about the weather"),
        ("of project aurora", "answer", 3, "stop: aurora"),
        ("Bob was here", "prompt", 0, "[name] was here"),
        ("an odd one", "document", 0, "allow"),
        ("bread", "prompt", 0, "allow"),
    ],
)
def test_a_text_is_tried(
    policy: str, capsys: pytest.CaptureFixture[str], text: str, place: str, code: int, said: str
) -> None:
    assert run(["guard", "check", text, "--as", place, "--policy", policy]) == code
    assert said in capsys.readouterr().out


def test_standard_input_and_json(
    policy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("极光计划"))
    assert run(["guard", "check", "--policy", policy, "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["action"], told["category"], told["text"]) == ("refuse", "aurora", "")
    assert told["findings"][0]["text"] == "极光计划"
    assert "极光" in told["message"]
