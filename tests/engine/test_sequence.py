"""The engine on a real decoder: a tiny seeded model, its own tokenizer and template."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fluvial.engine.decoder import Decoder
from fluvial.engine.engine import Engine
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.opening import open_template, open_tokenizer
from fluvial.types import Delta, Message, Sampling

TEXT = "Rivers carry what they meet; the bed remembers."
Open = Callable[..., Engine]


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path) -> Checkpoint:
    return open_checkpoint(tiny_model)


@pytest.fixture(scope="module")
def graph_folder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_graph(checkpoint, cache_dir=tmp_path_factory.mktemp("graphs"), positions=512)


@pytest.fixture
def open_engine(checkpoint: Checkpoint, graph_folder: Path) -> Iterator[Open]:
    template = open_template(checkpoint)
    opened: list[Engine] = []

    def start(**options: int) -> Engine:
        whole = Decoder(checkpoint, graph_folder=graph_folder, context_tokens=512, threads=1)
        decoder = whole
        tokenizer = open_tokenizer(checkpoint)
        engine = Engine(decoder, name="tiny", tokenizer=tokenizer, template=template, **options)
        opened.append(engine)
        return engine

    yield start
    for engine in opened:
        engine.close()
    template.close()


def random_adapter(checkpoint: Checkpoint, *, key: str, seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    tensors = create_tensors(checkpoint.declaration, rank=4, seed=seed)
    noise = {n: rng.normal(0, 0.3, t.shape).astype(np.float32) for n, t in tensors.items()}
    return Adapter(key, noise)


def answer(engine: Engine, text: str = TEXT, *, lane: str = "a", **options: object) -> list[Delta]:
    adapter = {"adapter": options.pop("adapter")} if "adapter" in options else {}
    sampling = Sampling(**{"temperature": 1.0, "seed": 11, "max_tokens": 24, **options})
    messages = [Message(role="user", content=text)]
    return list(engine.generate(messages, sampling=sampling, lane=lane, **adapter))


def join(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def test_seed_holds_whatever_is_cached_and_however_the_prompt_is_cut(open_engine: Open):
    engine = open_engine()
    first = answer(engine)
    again, elsewhere = answer(engine), answer(engine, lane="b")
    cut = [answer(open_engine(step_tokens=size)) for size in (2, 5, 512)]
    assert first[-1].usage is not None
    assert first[-1].usage.completion_tokens > 5
    assert again[-1].usage is not None
    assert again[-1].usage.cached_tokens == first[-1].usage.prompt_tokens - 1
    assert {join(deltas) for deltas in (again, elsewhere, *cut)} == {join(first)}
    assert join(answer(engine, seed=12)) != join(first)


def test_adapter_changes_the_answer_and_the_base_comes_back(
    open_engine: Open, checkpoint: Checkpoint
):
    engine = open_engine()
    base = join(answer(engine))
    adapted = answer(engine, adapter=lambda: random_adapter(checkpoint, key="s/1", seed=1))
    assert join(adapted) != base
    assert adapted[-1].usage is not None
    assert adapted[-1].usage.cached_tokens == 0
    assert join(answer(engine)) == base


def test_zero_adapter_answers_as_the_base(open_engine: Open, checkpoint: Checkpoint):
    engine = open_engine()
    tensors = create_tensors(checkpoint.declaration, rank=4, seed=0)
    zero = answer(engine, adapter=lambda: Adapter("s/0", tensors))
    assert join(zero) == join(answer(engine))


def test_new_version_changes_the_rest_of_an_answer(open_engine: Open, checkpoint: Checkpoint):
    engine = open_engine()
    changed = random_adapter(checkpoint, key="s/1", seed=2)
    asked = iter(range(1000))
    swapped = join(answer(engine, adapter=lambda: changed if next(asked) > 8 else None))
    base = join(answer(engine))
    assert swapped != base
    assert swapped[:4] == base[:4]


def test_next_turn_goes_on_from_the_last(open_engine: Open):
    engine = open_engine()
    reply = join(answer(engine))
    messages = [
        Message(role="user", content=TEXT),
        Message(role="assistant", content=reply),
        Message(role="user", content="And then?"),
    ]
    sampling = Sampling(max_tokens=4)
    last = list(engine.generate(messages, sampling=sampling, lane="a"))[-1]
    assert last.usage is not None
    assert last.usage.cached_tokens >= engine.count(messages[:1]) - 8
    assert last.usage.prompt_tokens == engine.count(messages)
