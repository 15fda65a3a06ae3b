"""Replay: the same text from the same version gives the same bits, whatever happens around it."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from fluvial.adapt.learner import Learner
from fluvial.model.adapter_file import decode, encode
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from tests.adapt.stream import (
    RULE,
    VERSION_TOKENS,
    Settled,
    Stream,
    assert_equal,
    assert_same_versions,
    draw_tokens,
    open_learner,
    read_alone,
)

TEXT = draw_tokens(0, 1000)


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(tiny_model)


@pytest.fixture(scope="module", params=["engine", "float32"])
def graph_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """Where the engine's graph is, None for the path in float32."""
    return tmp_path_factory.mktemp("graph") if request.param == "engine" else None


@pytest.fixture(scope="module")
def learner(checkpoint: Checkpoint, graph_dir: Path | None) -> Learner:
    return open_learner(checkpoint, graph_dir=graph_dir)


@pytest.fixture(scope="module")
def expected(learner: Learner) -> Stream:
    """The text read without anything in between."""
    return read_alone(learner, TEXT)


def test_a_text_moves_the_adapter_at_every_version(expected: Stream) -> None:
    assert len(expected.versions) == 4
    for before, after in zip(expected.versions, expected.versions[1:], strict=False):
        assert any(after.tensors[n].tobytes() != t.tobytes() for n, t in before.tensors.items())


def test_a_fresh_learner_gives_the_same_bits(
    checkpoint: Checkpoint, graph_dir: Path | None, expected: Stream
) -> None:
    again = read_alone(open_learner(checkpoint, graph_dir=graph_dir), TEXT)
    assert again.results == expected.results
    assert_same_versions(again.versions, expected.versions)


def test_another_text_gives_other_bits(learner: Learner, expected: Stream) -> None:
    ids = [*TEXT]
    ids[100] ^= 1
    other = read_alone(learner, ids)
    assert other.results[0] == expected.results[0]
    assert other.results[1] != expected.results[1]


def test_sessions_read_in_any_order_are_as_if_alone(learner: Learner) -> None:
    texts = {name: draw_tokens(seed, 700) for seed, name in enumerate("abc", start=1)}
    alone = {name: read_alone(learner, ids, learn=name != "c") for name, ids in texts.items()}
    streams = [Stream(learner, name, ids, learn=name != "c") for name, ids in texts.items()]
    for stream in streams:
        learner.load(stream.session, None)
    rng, order = random.Random(3), ""
    while going := [stream for stream in streams if not stream.ended]:
        chosen = rng.choice(going)
        chosen.read()
        order += chosen.session
    assert len(set(zip(order, order[1:], strict=False))) > 4  # they did take turns
    for stream in streams:
        assert stream.results == alone[stream.session].results
        assert_same_versions(stream.versions, alone[stream.session].versions)
        learner.drop(stream.session)


@pytest.mark.parametrize("killed_after", range(1, 16, 2))
def test_a_crash_at_any_chunk_changes_no_bit(
    learner: Learner, checkpoint: Checkpoint, expected: Stream, killed_after: int
) -> None:
    learner.load("s", None)
    stream = Stream(learner, "s", TEXT)
    for _ in range(killed_after):
        stream.read()
    learner.drop("s")
    kept = stream.versions[-1].tensors if stream.versions else None
    learner.load("s", None if kept is None else _store(kept, checkpoint))
    begin = stream.at // VERSION_TOKENS * VERSION_TOKENS
    resumed = Stream(learner, "s", TEXT, at=begin).read_all()
    saved = begin // VERSION_TOKENS
    assert [*resumed.results] == expected.results[begin // RULE.chunk_tokens :]
    assert_same_versions(resumed.versions, expected.versions[saved:])


def test_the_order_of_tensors_changes_no_bit(
    learner: Learner, checkpoint: Checkpoint, expected: Stream
) -> None:
    """A file gives its tensors in another order with each opening."""
    stored = list(_store(expected.versions[0].tensors, checkpoint).items())
    for seed in range(8):
        random.Random(seed).shuffle(stored)
        learner.load("s", dict(stored))
        rest = Stream(learner, "s", TEXT, at=VERSION_TOKENS).read_all()
        assert_same_versions(rest.versions, expected.versions[1:])


def test_every_rule_replays_from_what_is_stored(
    checkpoint: Checkpoint, graph_dir: Path | None
) -> None:
    """With a gate, averages, and an A that moves, too: a version's memory ends with it."""
    rules = (
        replace(RULE, method="sign", learn_a=False, learn_gains=False),
        replace(RULE, method="muon", learn_a=False),
        replace(RULE, method="normed", gate=0.97),
        replace(RULE, method="adam", gate=1.0),
    )
    for rule in rules:
        learner = open_learner(checkpoint, graph_dir=graph_dir, rule=rule)
        whole = read_alone(learner, TEXT)
        learner.load("s", _store(whole.versions[1].tensors, checkpoint))
        rest = Stream(learner, "s", TEXT, at=2 * VERSION_TOKENS).read_all()
        assert_same_versions(rest.versions, whole.versions[2:])


def test_storing_loses_no_bit(expected: Stream, checkpoint: Checkpoint) -> None:
    for version in expected.versions:
        assert_equal(_store(version.tensors, checkpoint), version.tensors)


def test_reading_without_learning_leaves_no_trace(
    checkpoint: Checkpoint, graph_dir: Path | None
) -> None:
    rule = replace(RULE, gate=0.97)  # whose running mean must not move either
    learner = open_learner(checkpoint, graph_dir=graph_dir, rule=rule)
    expected = read_alone(learner, TEXT)
    learner.load("s", None)
    before = learner.export("s")
    silent = Stream(learner, "s", draw_tokens(9, 300), learn=False).read_all()
    assert not any(r.learned or r.skipped or r.restored for r in silent.results)
    assert_equal(learner.export("s"), before)
    after = Stream(learner, "s", TEXT).read_all()
    assert after.results == expected.results
    assert_same_versions(after.versions, expected.versions)


def test_threads_change_no_bit(
    checkpoint: Checkpoint, graph_dir: Path | None, expected: Stream
) -> None:
    learner = open_learner(checkpoint, graph_dir=graph_dir)
    learner.use_threads(2)
    try:
        assert_same_versions(read_alone(learner, TEXT).versions, expected.versions)
    finally:
        learner.use_threads(1)


def test_a_version_reads_as_before_once_it_is_loaded_again(
    learner: Learner, checkpoint: Checkpoint, expected: Stream
) -> None:
    for version in expected.versions:
        assert isinstance(version, Settled)
        first = learner.score([0], TEXT[:96], tensors=version.tensors)
        assert learner.score([0], TEXT[:96], tensors=_store(version.tensors, checkpoint)) == first
        assert first != learner.score([0], TEXT[:96])


def _store(tensors: dict, checkpoint: Checkpoint) -> dict:  # type: ignore[type-arg]
    """Return the tensors as they come back from a version's file."""
    data = encode(tensors, checkpoint=checkpoint.sha256, declaration=checkpoint.declaration)
    return decode(data, declaration=checkpoint.declaration, checkpoint=checkpoint.sha256)
