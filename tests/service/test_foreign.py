"""A model that runs on transformers behind the whole engine: it chats, learns, starts again."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from fluvial.adapt.process import LearnerProcess
from fluvial.adapt.rule import Rule
from fluvial.config import Settings
from fluvial.engine.engine import Engine
from fluvial.engine.fallback import FallbackDecoder
from fluvial.errors import EngineError
from fluvial.model.adapter import Adapter, list_shapes
from fluvial.model.opening import AnyCheckpoint, open_model
from fluvial.service.start import open_engine
from fluvial.types import Message, Sampling
from tests.foreign import save_foreign
from tests.model.sample import write_folder

RULE = Rule(rank=4, chunk_tokens=64, overlap_tokens=16, stride_tokens=256, min_tokens=8)
TEXT = [3 + (7 * i * i + i) % 90 for i in range(64)]


@pytest.fixture(
    scope="module", params=["cohere2", pytest.param("gpt_neox", marks=pytest.mark.slow)]
)
def checkpoint(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AnyCheckpoint:
    folder = tmp_path_factory.mktemp(request.param)
    save_foreign(request.param, folder)
    write_folder(folder)
    return open_model(folder)


@pytest.fixture(scope="module")
def engine(checkpoint: AnyCheckpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = Settings(data_dir=tmp_path_factory.mktemp("data"), threads=1)
    with open_engine(checkpoint, name="foreign", settings=settings) as engine:
        yield engine


def test_it_chats_turn_after_turn_with_an_adapter_or_without(
    engine: Engine, checkpoint: AnyCheckpoint
) -> None:
    shapes = list_shapes(checkpoint.declaration, rank=4)
    rng = np.random.default_rng(0)
    noise = {n: (0.3 * rng.standard_normal(s)).astype(np.float32) for n, s in shapes.items()}
    base, usage = _answer(engine, ["one two three"])
    assert usage.completion_tokens == 12
    again, _ = _answer(engine, ["one two three"])
    assert again == base
    adapted, _ = _answer(engine, ["one two three"], adapter=Adapter("s/1", noise))
    assert adapted != base
    _, usage = _answer(engine, ["one two three", base, "and four"])
    assert usage.cached_tokens > 0


def test_answers_together_are_answers_alone(engine: Engine) -> None:
    texts = ["one two three", "something else", "a third"]
    alone = [_answer(engine, [text], lane=f"alone {text}")[0] for text in texts]
    together = [_begin(engine, [text], lane=text) for text in texts]
    assert ["".join(d.text for d in each) for each in together] == alone


def test_when_its_process_dies_the_next_answer_finds_another(engine: Engine) -> None:
    expected, _ = _answer(engine, ["one two three"])
    decoder = engine._decoder
    assert isinstance(decoder, FallbackDecoder)
    assert decoder._child is not None
    running = iter(_begin(engine, ["one two three"], lane="b", max_tokens=400))
    next(running)
    os.kill(decoder._child.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="process"):
        list(running)
    assert _answer(engine, ["one two three"])[0] == expected


def test_its_learner_learns_in_a_process_too(checkpoint: AnyCheckpoint) -> None:
    learner = LearnerProcess(checkpoint.path, sha256=checkpoint.sha256, rule=RULE, threads=1)
    learner.start()
    learner.load("s", None)
    results = [learner.read("s", context=[0, 5], chunk=TEXT, learn=True) for _ in range(16)]
    drift = learner.settle("s").drift
    tensors = learner.export("s")
    learner.close()
    assert results[0].adapted_nats == pytest.approx(results[0].frozen_nats)
    assert results[-1].adapted_nats < 0.99 * results[0].adapted_nats
    assert drift > 0
    assert {n: t.shape for n, t in tensors.items()} == list_shapes(checkpoint.declaration, rank=4)


def _begin(
    engine: Engine,
    texts: list[str],
    *,
    lane: str = "a",
    adapter: Adapter | None = None,
    max_tokens: int = 12,
):
    roles = ("user", "assistant")
    messages = [Message(role=roles[n % 2], content=text) for n, text in enumerate(texts)]
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)
    return engine.generate(messages, sampling=sampling, lane=lane, adapter=lambda: adapter)


def _answer(engine: Engine, texts: list[str], **options):
    deltas = list(_begin(engine, texts, **options))
    return "".join(delta.text for delta in deltas), deltas[-1].usage
