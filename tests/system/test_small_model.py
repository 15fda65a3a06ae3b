"""The small real model, as it is pulled: the same numbers as `transformers`, in every form."""

from collections.abc import Callable, Sequence
from pydoc_data.topics import topics

import numpy as np
import pytest
import torch

from fluvial.engine.decoder import Cache, Decoder, Part
from fluvial.model.built import ensure_graph
from fluvial.model.checkpoint import Checkpoint, open_checkpoint
from fluvial.model.module import Module
from fluvial.model.opening import open_tokenizer
from tests.reference import load_reference

PERPLEXITY_TOKENS = 20_000
WINDOW_TOKENS = 512
PROMPTS = ("Q: What is the capital of France?\nA:", "def fibonacci(n):\n    ", "Once upon a time")
ANSWER_TOKENS = 40

pytestmark = pytest.mark.model


@pytest.fixture(
    scope="module",
    params=[
        "small_model_path",
        pytest.param("default_model_path", marks=pytest.mark.slow),
    ],
)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return open_checkpoint(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def module(checkpoint: Checkpoint) -> Module:
    return Module(checkpoint)


@pytest.fixture(scope="module")
def decoder(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = ensure_graph(checkpoint, cache_dir=tmp_path_factory.mktemp("graph"), positions=1024)
    return Decoder(checkpoint, graph_folder=folder, context_tokens=1024, threads=2)


@pytest.fixture(scope="module")
def windows(checkpoint: Checkpoint) -> list[list[int]]:
    """20,000 tokens of the Python manual, in windows."""
    ids = open_tokenizer(checkpoint).encode("\n".join(topics[key] for key in sorted(topics)))
    assert len(ids) >= PERPLEXITY_TOKENS
    starts = range(0, PERPLEXITY_TOKENS, WINDOW_TOKENS)
    return [ids[start : min(start + WINDOW_TOKENS, PERPLEXITY_TOKENS)] for start in starts]


def test_the_modules_logits_are_those_of_transformers(
    checkpoint: Checkpoint, module: Module, windows: list[list[int]]
) -> None:
    reference = load_reference(checkpoint)
    for window in windows[:2]:
        ids = torch.tensor(window[:256])
        with torch.no_grad():
            expected = reference(ids[None]).logits[0]
            found = module.logits(module.read(ids)[0])
        assert (found - expected).norm() / expected.norm() < 1e-4
        assert (found - expected).abs().max() / expected.abs().max() < 1e-4


# One window in five is enough to show a fault; all of them is what is promised.
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_perplexity_of_the_packed_engine_is_within_a_percent(
    module: Module,
    decoder: Decoder,
    windows: list[list[int]],
    record_property: Callable[[str, object], None],
    every: int,
) -> None:
    windows = windows[::every]
    packed = exact = 0.0
    for window in windows:
        packed += _score_packed(decoder, window)
        with torch.no_grad():
            hidden, _ = module.read(torch.tensor(window[:-1]))
            exact += float(module.losses(hidden, torch.tensor(window[1:])).sum())
    count = sum(len(window) - 1 for window in windows)
    ratio = np.exp((packed - exact) / count)
    record_property("packed_perplexity", float(np.exp(packed / count)))
    record_property("exact_perplexity", float(np.exp(exact / count)))
    assert abs(ratio - 1) < 0.01


def test_greedy_answers_are_those_of_the_module(
    checkpoint: Checkpoint, module: Module, decoder: Decoder
) -> None:
    """Packing rounds, so a token may be another only where the module holds both as good."""
    tokenizer, same = open_tokenizer(checkpoint), 0
    for text in PROMPTS:
        prompt = tokenizer.encode(text)
        answer = _answer(decoder, [prompt])[0]
        with torch.no_grad():
            read = module.read(torch.tensor([*prompt, *answer[:-1]]))[0]
            logits = module.logits(read).numpy()[len(prompt) - 1 :]
        drawn = logits[np.arange(len(answer)), answer]
        assert (logits.max(axis=-1) - drawn).max() < 1.0
        same += int((logits.argmax(axis=-1) == answer).sum())
    assert same >= 0.9 * len(PROMPTS) * ANSWER_TOKENS


def test_greedy_answers_together_are_those_alone(checkpoint: Checkpoint, decoder: Decoder) -> None:
    tokenizer = open_tokenizer(checkpoint)
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    alone = [_answer(decoder, [prompt])[0] for prompt in prompts]
    assert _answer(decoder, prompts) == alone
    assert _answer(decoder, prompts, chunk_tokens=3) == alone
    assert decoder.free_pages == decoder.total_pages


def _score_packed(decoder: Decoder, window: list[int]) -> float:
    cache = _begin(decoder, WINDOW_TOKENS)
    rows = range(len(window) - 1)
    logits = decoder.step([Part(cache, window[:-1], wanted=rows)])[0].astype(np.float64)
    decoder.release(cache)
    logits -= logits.max(axis=-1, keepdims=True)
    log_norm = np.log(np.exp(logits).sum(axis=-1))
    return float((log_norm - logits[rows, window[1:]]).sum())


def _answer(
    decoder: Decoder, prompts: Sequence[list[int]], *, chunk_tokens: int | None = None
) -> list[list[int]]:
    """Answer greedily, all in the same steps, once the prompts are read."""
    caches = [_begin(decoder, len(prompt) + ANSWER_TOKENS) for prompt in prompts]
    for cache, prompt in zip(caches, prompts, strict=True):
        size = chunk_tokens or len(prompt)
        for start in range(0, len(prompt) - 1, size):
            decoder.step([Part(cache, prompt[:-1][start : start + size])])
    answers = [[prompt[-1]] for prompt in prompts]
    for _ in range(ANSWER_TOKENS):
        parts = [
            Part(cache, answer[-1:], wanted=[0])
            for cache, answer in zip(caches, answers, strict=True)
        ]
        for answer, logits in zip(answers, decoder.step(parts), strict=True):
            answer.append(int(logits[0].argmax()))
    for cache in caches:
        decoder.release(cache)
    return [answer[1:] for answer in answers]


def _begin(decoder: Decoder, tokens: int) -> Cache:
    cache = decoder.new_cache()
    assert decoder.reserve(cache, tokens)
    return cache
