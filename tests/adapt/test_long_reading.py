"""One long text through the reader and its learner process: nothing grows with what was read."""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.rule import Rule
from fluvial.model.checkpoint import open_checkpoint
from fluvial.model.tokenizer import Tokenizer
from fluvial.types import ChunkScore
from tests.adapt.conftest import Desk, open_desk
from tests.adapt.stream import BUDGET

RULE = Rule(rank=4)
VERSION_TOKENS = 2048
PART_TOKENS = 10_000
MOST_GROWTH_BYTES = 8 * 2**20
"""Of the learner process at its highest, after the first part."""


@dataclass(frozen=True, kw_only=True)
class Mark:
    """How things stand after some tokens: bytes, and seconds of computing since the last mark."""

    tokens: int
    state_bytes: int
    peak_bytes: int
    learner_s: float
    reader_s: float


@pytest.fixture
def desk(tmp_path: Path, tiny_model: Path, native_library: Path) -> Iterator[Desk]:
    learner = LearnerProcess(
        tiny_model,
        sha256=open_checkpoint(tiny_model).sha256,
        rule=RULE,
        threads=1,
        graph_dir=tmp_path / "graph",
        positions=1024,
        drift_budget=BUDGET,
    )
    desk = open_desk(tmp_path / "data", tiny_model, learner=learner, version_tokens=VERSION_TOKENS)
    yield desk
    desk.reader.close()
    desk.store.close()


def test_forty_thousand_tokens_leave_no_more_than_ten_thousand_do(desk: Desk) -> None:
    _assert_constant(_read(desk, tokens=40_000))


@pytest.mark.slow
def test_a_million_tokens_leave_no_more_than_ten_thousand_do(desk: Desk) -> None:
    marks = _read(desk, tokens=1_000_000)
    _assert_constant(marks)
    for mark in marks[:: len(marks) // 10]:
        print(mark)  # noqa: T201  seen with -s: the figures of docs/adaptation.md


def test_a_chunk_costs_the_same_wherever_it_stands(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in tokens taken out of the text, for time would depend on the machine."""
    texts: list[Counted] = []
    encode = Tokenizer.encode

    def count(tokenizer: Tokenizer, text: str) -> list[int]:
        texts.append(Counted(encode(tokenizer, text)))
        return texts[-1]

    monkeypatch.setattr(Tokenizer, "encode", count)
    session = desk.begin()
    ended = desk.wait_ended(session, desk.queue(session, _write(20_000)))
    assert ended.tokens_read == len(texts[0]) > 20_000
    assert len(texts[0].taken) > 100
    assert max(texts[0].taken) <= max(RULE.chunk_tokens, RULE.overlap_tokens)


class Counted(list[int]):
    """Notes how much is taken out of it at once."""

    def __init__(self, items: list[int]) -> None:
        super().__init__(items)
        self.taken: list[int] = []

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        if isinstance(key, slice):
            self.taken.append(len(found))
        return found


def _read(desk: Desk, *, tokens: int) -> list[Mark]:
    """Read so many tokens in one session; return how things stood after each part of them."""
    session = desk.begin()
    reading = desk.queue(session, _write(tokens))
    marks: list[Mark] = []
    seen, learner_s, reader_s = 0, _measure_learner_s(desk), time.process_time()
    while len(marks) < tokens // PART_TOKENS:
        due = (len(marks) + 1) * PART_TOKENS
        desk.wait(lambda due=due: _find_last(desk) >= due)
        events = desk.events[seen:]
        seen += len(events)
        versions = [e[2] for e in events if e[0] == "version"]
        marks.append(
            Mark(
                tokens=due,
                state_bytes=versions[-1].bytes,  # type: ignore[attr-defined]
                peak_bytes=_measure_peak_bytes(desk),
                learner_s=_measure_learner_s(desk) - learner_s,
                reader_s=time.process_time() - reader_s,
            )
        )
        learner_s, reader_s = _measure_learner_s(desk), time.process_time()
    assert desk.wait_ended(session, reading).status == "done"
    assert len({version.bytes for version in desk.store.versions(session)}) == 1
    return marks


def _assert_constant(marks: list[Mark]) -> None:
    assert len({mark.state_bytes for mark in marks}) == 1
    assert marks[-1].peak_bytes - marks[0].peak_bytes < MOST_GROWTH_BYTES, marks


def _find_last(desk: Desk) -> int:
    for kind, _, record in reversed(desk.events):
        if kind == "score":
            score: ChunkScore = record[1]  # type: ignore[index]
            return score.start + score.tokens
    return 0


def _measure_peak_bytes(desk: Desk) -> int:
    """Return the learner process's resident memory at its highest; 0 where it can't be told."""
    lines = dict(line.split(":", 1) for line in _read_facts(desk, "status").splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024 if lines else 0


def _measure_learner_s(desk: Desk) -> float:
    """Return the processor's seconds that the learner has had: fields 14 and 15 of proc(5)."""
    fields = _read_facts(desk, "stat").rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def _read_facts(desk: Desk, name: str) -> str:
    child = desk.learner._process
    path = Path(f"/proc/{child.pid if child else 0}/{name}")
    return path.read_text() if path.exists() else ""


def _write(tokens: int) -> str:
    """Write a text of at least so many tokens, and not many more."""
    rng = random.Random(0)
    words = ["".join(rng.choices("bcdfgklmpsu", k=rng.randint(2, 7))) for _ in range(200)]
    text, size = [], 0
    while size <= tokens:
        word = rng.choice(words)
        text.append(word)
        size += len(word) + 1
    return " ".join(text)
