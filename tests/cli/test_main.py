"""The command line as a whole: help, versions, errors and exit codes."""

import subprocess
import sys
from pathlib import Path

import click
import pytest

import fluvial
from fluvial.cli.main import cli, run
from fluvial.cli.terminal import clean, clean_line, name_duration
from fluvial.config import Settings

Capture = pytest.CaptureFixture[str]


def test_version_and_help(capsys: Capture) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"fluvial {fluvial.__version__}\n"
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("serve", "chat", "read", "sessions", "models", "bench"))


def list_commands(group: click.Group, *path: str) -> list[list[str]]:
    found: list[list[str]] = []
    for name, command in group.commands.items():
        found.append([*path, name])
        if isinstance(command, click.Group):
            found += list_commands(command, *path, name)
    return found


@pytest.mark.parametrize("command", list_commands(cli), ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: Capture) -> None:
    assert run([*command, "--help"]) == 0
    assert f"Usage: fluvial {' '.join(command)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args", [["nonsense"], ["models", "pull"], ["serve", "--port", "x"], ["read", "new"]]
)
def test_wrong_usage_exits_2(args: list[str], capsys: Capture) -> None:
    assert run(args) == 2
    assert "Error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["serve", "--port", "99999"], "setting 'port'"),
        (["serve", "--config", "/nowhere.toml"], "no configuration file"),
        (["serve", "--offline"], "fluvial models pull"),
        (["serve", "--offline", "--model", "unheard-of"], "no model unheard-of is installed"),
        (["serve", "--model", "../x"], "can't name a model"),
        (["models", "show", "unheard-of"], "in the catalogue: qwen2.5-coder-0.5b-instruct"),
        (["sessions", "list", "--url", "ftp://x"], "is not an address"),
        (["sessions", "list", "--url", "http://127.0.0.1:9"], "start one with `fluvial serve`"),
    ],
)
def test_an_error_is_one_line_and_exits_1(args: list[str], complaint: str, capsys: Capture) -> None:
    assert run(args) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert complaint in err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from fluvial.cli.main import run; run(['--help']); "
        "heavy = {'numpy', 'torch', 'pydantic', 'httpx2', 'fastapi', 'rich', 'onnxruntime'}; "
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_config_show_prints_toml_that_can_be_read_back(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUVIAL_RANK", "4")
    monkeypatch.setenv("FLUVIAL_API_KEY", "a secret of sixteen")
    assert run(["config", "show"]) == 0
    out = capsys.readouterr().out
    assert "rank = 4" in out
    assert "(from FLUVIAL_RANK)" in out
    assert "api_key is set, and not shown" in out
    assert "sixteen" not in out
    monkeypatch.delenv("FLUVIAL_RANK")
    monkeypatch.delenv("FLUVIAL_API_KEY")
    (tmp_path / "f.toml").write_text(out)
    assert run(["config", "show", "--config", str(tmp_path / "f.toml"), "--json"]) == 0
    assert '"rank": 4' in capsys.readouterr().out


def test_serve_makes_sure_of_the_model_then_serves_these_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fluvial.server import app

    order: list[object] = []
    monkeypatch.setattr(
        "fluvial.model.registry.Registry.ensure",
        lambda self, name, *, offline, progress: order.append((self.folder, name, offline)),
    )
    monkeypatch.setattr(app, "serve", lambda settings, **_: order.append(settings))
    args = ["--port", "0", "--data-dir", str(tmp_path), "--model", "tiny", "--threads", "2"]
    assert run(["serve", *args]) == 0
    assert order[0] == (tmp_path / "models", "tiny", False)
    settings = order[1]
    assert isinstance(settings, Settings)
    assert (settings.port, settings.threads, settings.data_dir) == (0, 2, tmp_path)


def test_ctrl_c_exits_130(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fluvial.model.registry.Registry.ensure", interrupt)
    assert run(["serve"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_bench_prints_json_last_or_a_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    import json
    from types import SimpleNamespace

    from fluvial.bench import adapt

    row = {
        "path": "a.txt",
        "tokens": 1000,
        "frozen_bpb": 1.1,
        "long_window_bpb": 1.05,
        "adapted_bpb": 1.0,
        "gain_pct": 9.09,
        "overhead": 2.5,
        "unrelated_before_bpb": 2.0,
        "unrelated_after_bpb": 2.01,
    }
    result = {"model": "m", "files": [row], "median_gain_pct": 9.09, "median_overhead": 2.5}
    given: dict[str, object] = {}

    def measure(files: list[Path], **options: object) -> dict[str, object]:
        given.update(options, files=files)
        return result

    monkeypatch.setattr(adapt, "run", measure)
    monkeypatch.setattr(
        "fluvial.model.registry.Registry.ensure",
        lambda *_, **__: SimpleNamespace(path="/models/m/model.gguf"),
    )
    file = tmp_path / "a.txt"
    file.write_text("text")
    assert run(["bench", "adapt", str(file), "--json", "--quick"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert given["files"] == [file]
    assert given["quick"] is True
    assert given["tokens"] is None
    assert given["model_path"] == Path("/models/m/model.gguf")
    assert run(["bench", "adapt", str(file), "--tokens", "500"]) == 0
    assert given["tokens"] == 500
    out = capsys.readouterr().out
    assert "median gain 9.09%" in out
    assert "+0.50%" in out


def test_text_from_outside_can_t_steer_the_terminal() -> None:
    assert clean("a\x1b[31mb\x07\x9bc\r\n\td\u202ee") == "a\ufffd[31mb\ufffd\ufffdc\n\td\ufffde"
    assert clean("naïve 你好 🎉") == "naïve 你好 🎉"
    assert clean_line("one\ntwo " * 20, width=10) == "one two o…"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert name_duration(seconds) == text
