"""`fluvial bench latency`: a real service asked alone and beside a reading; figures from rounds."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from fluvial.bench.latency import Round, Sample, cut, run, summarise_rounds, write_question
from fluvial.cli.main import run as run_command
from fluvial.config import Settings, load
from fluvial.errors import InputError, LearnerError
from fluvial.service.reading import Readings
from fluvial.types import Session, Usage
from tests.system.live import MODEL, install

TEXT = "the thing is that the king is in the ring, and the ring is on the king. " * 200


@pytest.fixture
def settings(tmp_path: Path, tiny_model: Path, native_library: Path) -> Settings:
    install(tmp_path / "data", tiny_model)
    own = {"data_dir": tmp_path / "data", "model": MODEL, "threads": 1, "learner_threads": 1}
    return load(overrides=own)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_a_service_is_asked_alone_and_beside_a_reading(file: Path, settings: Settings) -> None:
    done: list[tuple[int, int]] = []
    result = run(file, settings=settings, rounds=2, on_round=lambda *each: done.append(each))
    assert done == [(1, 2), (2, 2)]
    assert result["ratio"] == pytest.approx(result["reading_ms"] / result["idle_ms"], rel=0.01)
    assert result["idle_ms"] > 0
    assert result["prompt_tokens"] > 200
    assert result["spread"]["idle_ms"]["rounds"] == result["spread"]["reading_ms"]["rounds"] == 4
    assert result["spread"]["ratio"]["rounds"] == 2
    assert result["cached_tokens"] < 32, "only what the template begins with"
    assert result["reading_tps"] > 0
    assert {path.name for path in settings.data_dir.iterdir()} == {"models", "graphs"}


def test_what_is_short_is_read_again_while_questions_are_asked(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "short.txt"
    file.write_text("A short one. " * 12, encoding="utf-8")
    added: list[str] = []
    add = Readings.add

    def note(readings: Readings, session: Session, *, name: str, text: str) -> object:
        added.append(session.id)
        return add(readings, session, name=name, text=text)

    monkeypatch.setattr(Readings, "add", note)
    run(file, settings=settings, rounds=1, questions=12)
    assert len(set(added)) == 2, "one to warm up, one for the round"
    assert added.count(added[-1]) > 1


def test_a_reading_that_fails_is_no_measurement(
    file: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr("fluvial.adapt.study.Study.read_chunks", fail)
    with pytest.raises(LearnerError, match="the disk is gone"):
        run(file, settings=settings, rounds=1)


def test_without_learning_there_is_nothing_to_measure(file: Path, settings: Settings) -> None:
    with pytest.raises(InputError, match="off in the settings"):
        run(file, settings=settings.model_copy(update={"learning": False}))


def test_the_command_prints_json_last_or_a_table(
    file: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[int, int]] = []

    def answer(file: Path, *, settings: Settings, rounds: int, **_: object) -> dict[str, Any]:
        asked.append((rounds, settings.learner_threads))
        measured = Round(idle=_ask(1), busy=_ask(1.25), quiet_tokens=9, quiet_s=1)
        return {"model": settings.model, **summarise_rounds([measured])}

    monkeypatch.setattr("fluvial.bench.latency.run", answer)
    command = ["bench", "latency", str(file), "--data-dir", str(settings.data_dir)]
    command += ["--model", MODEL, "--learner-threads", "3"]
    assert run_command([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ratio"] == 1.25
    assert run_command([*command, "--quick"]) == 0
    assert f"{MODEL}: 1.25 times as long beside a reading" in capsys.readouterr().out
    assert asked == [(20, 3), (3, 3)]


def test_figures_are_medians_over_questions_and_sums_over_rounds() -> None:
    first = Round(idle=_ask(1, 3), busy=_ask(2, 4), beside_tokens=10, beside_s=2, quiet_s=1)
    second = Round(idle=_ask(5, 7), busy=_ask(9, 9), beside_tokens=2, beside_s=1, quiet_tokens=9)
    figures = summarise_rounds([first, second])
    assert (figures["idle_ms"], figures["reading_ms"], figures["ratio"]) == (4000, 6500, 1.625)
    assert (figures["spread"]["ratio"]["min"], figures["spread"]["ratio"]["max"]) == (1.5, 1.5)
    assert (figures["reading_beside_tps"], figures["reading_tps"]) == (4, 9)
    assert (figures["prompt_tokens"], figures["cached_tokens"]) == (200, 3)


def test_a_text_is_cut_into_parts_of_one_length() -> None:
    assert cut("abcdefgh", 3) == ["ab", "cd", "ef"]
    assert cut("ab", 3) == ["ab", "ab", "ab"]
    assert cut("ab  ef", 3) == ["ab", "ab  ef", "ef"]


def test_no_two_questions_begin_alike() -> None:
    rng = random.Random(0)
    beginnings = {tuple(write_question(rng).split()[:5]) for _ in range(100)}
    assert len(beginnings) == 100


def _ask(*waited_s: float) -> list[Sample]:
    usage = Usage(prompt_tokens=200, completion_tokens=4, cached_tokens=3)
    return [Sample(waited_s=each, usage=usage) for each in waited_s]
