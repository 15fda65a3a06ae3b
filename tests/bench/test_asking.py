import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fluvial.bench.asking import ask
from fluvial.bench.instruction import ANSWER_TOKENS, load_instructions, run
from fluvial.bench.ours import draw_adapter
from fluvial.cli.main import run as run_command
from fluvial.config import load
from fluvial.model.adapter import Adapter
from fluvial.model.opening import open_model
from fluvial.service.start import open_engine


def test_answers_are_greedy_whatever_is_asked_at_once_and_follow_the_adapter(
    tiny_model: Path, tmp_path: Path, native_library: Path
) -> None:
    settings = load(overrides={"data_dir": tmp_path, "threads": 1, "context_tokens": 256})
    checkpoint = open_model(tiny_model)
    drawn = draw_adapter(checkpoint.declaration, seed=1)
    # Noise of the weights' own size: it can't but change what a model of random weights says.
    strong = Adapter("strong", {name: 300 * each for name, each in drawn.tensors.items()})
    asked = load_instructions()[:12]
    with open_engine(checkpoint, name="tiny", settings=settings) as engine:
        alone = run(ask(engine), instructions=asked)
        assert run(ask(engine), instructions=asked, at_once=4) == alone
        changed = run(ask(engine, adapter=lambda: strong), instructions=asked, at_once=4)
    assert [each["answer"] for each in changed["failed"]] != [
        each["answer"] for each in alone["failed"]
    ]
    assert all(len(each["answer"].encode()) <= 16 * ANSWER_TOKENS for each in alone["failed"])


def test_the_command_prints_json_last_or_a_table(
    tiny_model: Path,
    tmp_path: Path,
    native_library: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "fluvial.model.registry.Registry.ensure",
        lambda *_, **__: SimpleNamespace(path=str(tiny_model)),
    )
    words = ["bench", "instructions", "--data-dir", str(tmp_path), "--threads", "1"]
    assert run_command([*words, "--model", "tiny", "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["total"] == 100
    assert result["passed"] + len(result["failed"]) == 100
    assert result["passed"] < 5  # random weights
    assert run_command([*words, "--model", "tiny"]) == 0
    assert f"tiny: {result['passed']} of 100 followed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_small_model_follows_about_half(small_model_path: Path, tmp_path: Path) -> None:
    settings = load(overrides={"data_dir": tmp_path, "threads": 1, "context_tokens": 256})
    with open_engine(open_model(small_model_path), name="small", settings=settings) as engine:
        assert 45 <= run(ask(engine), at_once=8)["passed"] <= 60
