"""Texts of seeded tokens, and a learner that reads them as the reader does: in chunks, settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fluvial.adapt.bounding import Settlement
from fluvial.adapt.learner import Learner
from fluvial.adapt.rule import ChunkResult, Read, Rule
from fluvial.adapt.tracer import RecordedTracer
from fluvial.model.checkpoint import Checkpoint

RULE = Rule(rank=4, chunk_tokens=64, overlap_tokens=16, stride_tokens=256, min_tokens=8)
VERSION_TOKENS = 256
BUDGET = 0.1
PROBE = [3 + (5 * i * i + 3 * i) % 250 for i in range(96)]
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Settled:
    """A version as the learner gave it."""

    tensors: Arrays
    settlement: Settlement


def draw_tokens(seed: int, count: int) -> list[int]:
    """Draw a text with something to learn in it: phrases of a few tokens, again and again."""
    rng = np.random.default_rng(seed)
    phrases = rng.integers(3, 260, (12, 6)).tolist()
    text: list[int] = []
    while len(text) < count:
        text += phrases[rng.integers(12)]
    return text[:count]


def write_tokens(learner: Learner, *, seed: int, count: int) -> list[int]:
    """Have the base write a text: none is read better by it, so that damage shows."""
    rng, tracer, text = np.random.default_rng(seed), learner._tracer, [0]
    assert isinstance(tracer, RecordedTracer)
    while len(text) <= count:
        window = tracer.open(text[-1:], None, learns=False)
        for _ in range(128):
            [logits] = tracer._step(window, text[-1:], None, wanted=True)
            text.append(int(np.argmax(logits + rng.gumbel(size=len(logits)) / 2)))
        tracer.close(window)
    return text[1 : count + 1]


def open_learner(
    checkpoint: Checkpoint, *, graph_dir: Path | None, rule: Rule = RULE, budget: float = BUDGET
) -> Learner:
    """Open a learner; with `graph_dir` it reads with the engine, without in float32."""
    learner = Learner(
        checkpoint,
        rule=rule,
        graph_dir=graph_dir,
        positions=1024,
        probe=PROBE,
        drift_budget=budget,
    )
    learner.use_threads(1)
    return learner


@dataclass(eq=False)
class Stream:
    """One session's way through a text; `read` takes its next chunk, and settles where due."""

    learner: Learner
    session: str
    ids: Sequence[int]
    learn: bool = True
    at: int = 0
    rule: Rule = RULE
    version_tokens: int = VERSION_TOKENS

    def __post_init__(self) -> None:
        self.results: list[ChunkResult] = []
        self.versions: list[Settled] = []

    @property
    def ended(self) -> bool:
        return self.at >= len(self.ids)

    def read(self) -> None:
        read_together([self])

    def cut(self) -> Read:
        """Return the next chunk as it is asked for."""
        at = self.at
        context = [0, *self.ids[max(0, at - self.rule.overlap_tokens) : at]]
        return Read(
            session=self.session,
            context=context[-self.rule.overlap_tokens :],
            chunk=self.ids[at : at + self.rule.chunk_tokens],
            learn=self.learn,
            place=(self.session, at),
        )

    def take(self, result: ChunkResult) -> None:
        self.results.append(result)
        self.at = min(self.at + self.rule.chunk_tokens, len(self.ids))
        if self.learn and (self.at % self.version_tokens == 0 or self.ended):
            self.settle()

    def settle(self) -> None:
        settlement = self.learner.settle(self.session)
        self.versions.append(Settled(self.learner.export(self.session), settlement))

    def read_all(self) -> "Stream":
        while not self.ended:
            self.read()
        return self


def read_together(streams: Sequence[Stream]) -> None:
    """Read the next chunk of each stream of one learner in one batch."""
    results = streams[0].learner.read_all([stream.cut() for stream in streams])
    for stream, result in zip(streams, results, strict=True):
        stream.take(result)


def read_alone(learner: Learner, ids: Sequence[int], *, learn: bool = True) -> Stream:
    """Read a text in a session of its own, from the base."""
    learner.load("alone", None)
    stream = Stream(learner, "alone", ids, learn=learn).read_all()
    learner.drop("alone")
    return stream


def assert_equal(found: Arrays, expected: Arrays) -> None:
    """Hold adapters to each other, to the bit."""
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.tobytes() == expected[name].tobytes(), name


def assert_same_versions(found: Sequence[Settled], expected: Sequence[Settled]) -> None:
    """Hold histories to each other, to the bit."""
    assert [each.settlement for each in found] == [each.settlement for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert_equal(one.tensors, other.tensors)
