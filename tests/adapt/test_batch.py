"""Chunks of several sessions read in one batch: to the bit as if each was read alone."""

import random
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch

from fluvial.adapt.learner import Learner
from fluvial.adapt.live import Live
from fluvial.adapt.rule import Read
from fluvial.adapt.tracer import Asked, RecordedTracer
from fluvial.adapt.window import MOST_ROWS, cut
from fluvial.errors import LearnerError
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from tests.adapt.stream import (
    RULE,
    Arrays,
    Stream,
    assert_equal,
    assert_same_versions,
    draw_tokens,
    open_learner,
    read_alone,
    read_together,
)

TEXTS = {name: draw_tokens(seed, 700) for seed, name in enumerate("abcd", start=1)}
FROZEN, BROKEN, BROKEN_AT = "c", "b", 6


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(tiny_model)


@pytest.fixture(scope="module", params=["engine", "float32"])
def learner(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, tmp_path_factory: Any
) -> Learner:
    graph_dir = tmp_path_factory.mktemp("graph") if request.param == "engine" else None
    return open_learner(checkpoint, graph_dir=graph_dir)


@pytest.fixture(scope="module")
def bases(learner: Learner) -> dict[str, Arrays | None]:
    """Adapters to begin with, each its own; one session begins with the base."""
    bases: dict[str, Arrays | None] = {"a": None}
    for seed, name in enumerate("bcd", start=11):
        bases[name] = read_alone(learner, draw_tokens(seed, 256)).versions[-1].tensors
    return bases


@pytest.fixture(params=["score", "gradient"])
def broken(request: pytest.FixtureRequest, learner: Learner, monkeypatch: Any) -> str:
    """What is not finite when BROKEN reads the chunk at BROKEN_AT; its score is found sooner."""
    if request.param == "gradient":
        _break_gradients(learner, monkeypatch)
    return request.param


@pytest.mark.parametrize("threads", [1, 2])
def test_sessions_in_one_batch_are_as_if_alone(
    learner: Learner, bases: dict[str, Arrays | None], broken: str, threads: int
) -> None:
    learner.use_threads(1)
    alone = {name: _open(learner, name, bases[name]) for name in TEXTS}
    for stream in alone.values():
        while not stream.ended:
            _read([stream], broken=broken)
    learner.use_threads(threads)
    together = [_open(learner, name, bases[name]) for name in TEXTS]
    rng, sizes = random.Random(5), list[int]()
    while going := [stream for stream in together if not stream.ended]:
        batch = rng.sample(going, rng.randint(min(2, len(going)), len(going)))
        sizes.append(len(batch))
        _read(batch, broken=broken)
    learner.use_threads(1)
    assert max(sizes) == len(TEXTS)
    for stream in together:
        expected = alone[stream.session]
        assert stream.results == expected.results
        assert_same_versions(stream.versions, expected.versions)
    by_name = {stream.session: stream.results for stream in together}
    assert [r.restored for r in by_name[BROKEN]].index(True) == BROKEN_AT
    assert not any(r.restored for name in "acd" for r in by_name[name])
    assert not any(r.learned for r in by_name[FROZEN])


def test_a_batch_too_long_for_one_step_is_read_in_several(learner: Learner) -> None:
    names = [str(number) for number in range(6)]
    texts = {name: draw_tokens(20 + int(name), 128) for name in names}
    alone = {name: read_alone(learner, ids) for name, ids in texts.items()}
    assert len(names) * 2 * RULE.chunk_tokens > MOST_ROWS
    streams = [Stream(learner, name, ids) for name, ids in texts.items()]
    for name in names:
        learner.load(name, None)
    while not streams[0].ended:
        read_together(streams)
    for stream in streams:
        assert stream.results == alone[stream.session].results
        learner.drop(stream.session)


def test_both_sides_of_all_sessions_share_one_step(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: Any
) -> None:
    learner = open_learner(checkpoint, graph_dir=tmp_path)
    streams = [Stream(learner, name, TEXTS[name]) for name in "ab"]
    for stream in streams:
        learner.load(stream.session, None)
    read_together(streams)
    recorder, sizes = learner._tracer._recorder, list[int]()  # type: ignore[union-attr]
    step = recorder.step
    monkeypatch.setattr(recorder, "step", lambda parts: sizes.append(len(parts)) or step(parts))
    read_together(streams)
    assert sizes == [4]


def test_a_batch_that_can_not_be_read_is_refused_before_anything_moves(learner: Learner) -> None:
    learner.load("a", None)
    stream = Stream(learner, "a", TEXTS["a"])
    before = learner.export("a")
    with pytest.raises(LearnerError, match="one chunk"):
        learner.read_all([stream.cut(), stream.cut()])
    with pytest.raises(LearnerError, match="nobody"):
        learner.read_all([stream.cut(), Stream(learner, "nobody", TEXTS["b"]).cut()])
    assert_equal(learner.export("a"), before)
    stream.read()
    assert stream.results == read_alone(learner, TEXTS["a"]).results[:1]
    learner.drop("a")


def test_what_a_later_step_has_overwritten_is_not_learned_from(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    learner = open_learner(checkpoint, graph_dir=tmp_path)
    learner.load("s", None)
    tracer, live = learner._tracer, learner._sessions["s"].live
    assert isinstance(tracer, RecordedTracer)
    first, second = (tracer.open([0], live, learns=True) for _ in range(2))
    for window in (first, second):
        tracer.score_all([Asked(window, TEXTS["a"][:64], live)])
    with pytest.raises(LearnerError, match="overwritten"):
        tracer.differentiate(first, live)
    tracer.differentiate(second, live)


@pytest.mark.parametrize(
    ("chunk_tokens", "compare", "sizes"),
    [(64, True, [4, 4, 1]), (64, False, [8, 1]), (300, True, [1] * 9), (200, False, [2] * 4 + [1])],
)
def test_batches_stay_within_their_rows(chunk_tokens: int, compare: bool, sizes: list[int]) -> None:
    reads = [
        Read(session=str(n), context=[0], chunk=[1] * chunk_tokens, learn=True, compare=compare)
        for n in range(9)
    ]
    batches = [*cut(reads)]
    assert [len(batch) for batch in batches] == sizes
    assert [read for batch in batches for read in batch] == reads


def _open(learner: Learner, name: str, base: Arrays | None) -> Stream:
    learner.load(name, base)
    return Stream(learner, name, TEXTS[name], learn=name != FROZEN)


def _read(streams: list[Stream], *, broken: str) -> None:
    for stream in streams:
        if stream.session == BROKEN and len(stream.results) == BROKEN_AT and broken == "score":
            _break_state(stream.learner)
    read_together(streams)


@torch.no_grad()
def _break_state(learner: Learner) -> None:
    live = learner._sessions[BROKEN].live
    next(iter(live.trained.values())).fill_(float("nan"))
    live.touch()


def _break_gradients(learner: Learner, monkeypatch: Any) -> None:
    """Have the gradient of BROKEN's chunk at BROKEN_AT be not finite, in each of its readings."""
    differentiate = learner._tracer.differentiate
    counts: WeakKeyDictionary[Live, int] = WeakKeyDictionary()

    def break_one(window: Any, live: Live) -> None:
        differentiate(window, live)
        if live is learner._sessions[BROKEN].live:
            counts[live] = counts.get(live, -1) + 1
            if counts[live] == BROKEN_AT:
                next(iter(live.trained.values())).grad.fill_(float("nan"))  # type: ignore[union-attr]

    monkeypatch.setattr(learner._tracer, "differentiate", break_one)
