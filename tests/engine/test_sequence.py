"""The engine on a real decoder: a tiny seeded model, its own tokenizer and template."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from fluvial.engine import spill
from fluvial.engine.decoder import Decoder
from fluvial.engine.engine import Engine
from fluvial.engine.generation import Generation
from fluvial.engine.spill import Spill
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

    def start(*, cache_tokens: int | None = None, **options: object) -> Engine:
        decoder = Decoder(
            checkpoint,
            graph_folder=graph_folder,
            context_tokens=512,
            threads=1,
            cache_tokens=cache_tokens,
        )
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


def ask(engine: Engine, text: str = TEXT, *, lane: str = "a", **options: object) -> Generation:
    own = {n: options.pop(n) for n in ("adapter", "owner") if n in options}
    sampling = Sampling(**{"temperature": 1.0, "seed": 11, "max_tokens": 24, **options})
    messages = [Message(role="user", content=text)]
    return engine.generate(messages, sampling=sampling, lane=lane, **own)


def questions(checkpoint: Checkpoint) -> list[dict[str, object]]:
    """Eight that differ in everything: length, draw, adapter; two of them without one."""
    adapters = [random_adapter(checkpoint, key=f"s{n}/1", seed=n) for n in range(6)]
    return [
        {
            "text": TEXT * (1 + 3 * n % 5),
            "lane": f"s{n}",
            "seed": n,
            "max_tokens": 20 + n,
            "ignore_eos": True,
            "adapter": lambda n=n: adapters[n] if n < 6 else None,
        }
        for n in range(8)
    ]


@pytest.mark.parametrize("cache_tokens", [4096, 640])
def test_eight_sessions_with_adapters_of_their_own_say_what_each_says_alone(
    open_engine: Open, checkpoint: Checkpoint, cache_tokens: int
):
    """Also where memory is short, so that some lose their caches on the way."""
    asked = questions(checkpoint)
    with_room = open_engine(batch_limit=1, cache_tokens=4096)
    alone = [join(list(ask(with_room, **each))) for each in asked]
    engine = open_engine(batch_limit=8, step_tokens=64, cache_tokens=cache_tokens)
    together = [ask(engine, **each) for each in asked]
    assert [join(list(each)) for each in together] == alone
    assert len(set(alone)) == 8
    engine.check()


def test_conversation_from_disk_goes_on_to_the_last_bit(
    open_engine: Open, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(spill, "SPARE_BYTES", 0)

    def disk() -> Spill:
        return Spill(tmp_path, checkpoint=checkpoint.sha256, version="1", budget_bytes=10**9)

    adapter = random_adapter(checkpoint, key="s/1", seed=3)
    text = TEXT * 4
    first = open_engine(spill=disk())
    expected = join(list(ask(first, text, adapter=lambda: adapter)))
    first.close()
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    second = open_engine(spill=disk())
    deltas = list(ask(second, text, adapter=lambda: adapter))
    assert join(deltas) == expected
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.cached_tokens == deltas[-1].usage.prompt_tokens - 1
    second.check()


def test_many_answers_to_one_prompt_are_those_of_single_requests(open_engine: Open):
    engine = open_engine()
    sampling = Sampling(temperature=1.0, seed=5, max_tokens=12)
    messages = [Message(role="user", content=TEXT)]
    many = engine.generate_many(messages, n=3, sampling=sampling, lane="a")
    texts = [join(list(each)) for each in many]
    assert len(set(texts)) == 3
    assert texts[0] == join(list(engine.generate(messages, sampling=sampling, lane="b")))


def soak(engine: Engine, *, requests: int) -> list[int]:
    """Ask short questions, eight at a time, some cancelled; return what is resident, in KiB."""
    resident: list[int] = []
    running: list[Generation] = []
    for number in range(requests):
        text = f"{number % 97} {TEXT[: number % 40]}"
        each = ask(engine, text, lane=f"s{number}", max_tokens=1 + number % 7, seed=number)
        running.append(each)
        if number % 11 == 0:
            each.cancel()
        if len(running) == 8:
            for generation in running:
                assert list(generation)[-1].finish in ("stop", "length", "cancelled")
            running = []
        if number % (requests // 20) == 0:
            engine.check()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGESIZE") // 1024)
    return resident


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "requests", [400, pytest.param(20_000, marks=pytest.mark.slow)], ids=["short", "hour"]
)
def test_memory_stays_flat(open_engine: Open, requests: int):
    """An hour of a busy server, at a question every fifth of a second, in its long form."""
    engine = open_engine(cache_tokens=2048)
    soak(engine, requests=200)
    resident = soak(engine, requests=requests)
    assert max(resident[10:]) - resident[5] < 8 * 1024, resident
    engine.check()
