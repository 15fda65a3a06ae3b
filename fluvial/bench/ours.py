"""Our own side of the benchmark: the decoder as the engine runs it, with greedy choice."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fluvial.bench.opening import open_decoder
from fluvial.engine.protocol import Cache, Decoder, Part
from fluvial.errors import EngineError
from fluvial.model.adapter import Adapter, create_tensors
from fluvial.model.architecture.declaration import Declaration
from fluvial.model.checkpoint import open_checkpoint

RANK = 8


class Ours:
    """A decoder in this process. Loading ends when its first token has come.

    `chunk_tokens` is the most tokens of a prompt that go through in one step.
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int,
        context_tokens: int,
        graph_dir: str,
        sequences: int = 1,
        chunk_tokens: int = 512,
    ) -> None:
        checkpoint = open_checkpoint(Path(path))
        self._declaration = checkpoint.declaration
        self._chunk_tokens = chunk_tokens
        self._adapters: list[Adapter] = []
        self._kept: tuple[list[int], Cache] | None = None
        self._decoder: Decoder = open_decoder(
            checkpoint,
            graph_dir=Path(graph_dir),
            threads=threads,
            context_tokens=context_tokens,
            sequences=sequences,
        )
        self.decode([0], tokens=1)

    def decode(
        self, prompt: list[int], *, tokens: int, adapter: bool = False, kept: bool = False
    ) -> float:
        """Return the speed of generating `tokens` after `prompt`."""
        chosen = self._adapter(0) if adapter else None
        cache = self._reuse(prompt) if kept else None
        if cache is None:
            cache = self._read(prompt[:-1], adapter=chosen, room=len(prompt))
        self._reserve(cache, len(prompt) + tokens)
        self._decoder.snapshot(cache)
        speed = self._generate([cache], [prompt[-1]], tokens=tokens, adapters=[chosen])
        if kept:
            self._decoder.truncate(cache, len(prompt) - 1)
            self._kept = list(prompt), cache
        else:
            self._decoder.release(cache)
        return speed

    def prefill(self, prompt: list[int]) -> float:
        """Return the speed of reading `prompt`, up to the choice of the first token after it."""
        begun_s = time.perf_counter()
        cache = self._read(prompt[:-1], adapter=None, room=len(prompt), last=prompt[-1])
        took_s = time.perf_counter() - begun_s
        self._decoder.release(cache)
        return len(prompt) / took_s

    def batch(self, prompts: list[list[int]], *, tokens: int, adapters: bool = False) -> float:
        """Return the speed of generating `tokens` after each prompt at once, all together.

        With `adapters`, each sequence has one of its own.
        """
        chosen = [self._adapter(index) if adapters else None for index in range(len(prompts))]
        caches = [
            self._read(prompt[:-1], adapter=adapter, room=len(prompt) + tokens)
            for prompt, adapter in zip(prompts, chosen, strict=True)
        ]
        lasts = [prompt[-1] for prompt in prompts]
        speed = self._generate(caches, lasts, tokens=tokens, adapters=chosen)
        for cache in caches:
            self._decoder.release(cache)
        return speed

    def score(self, windows: list[list[int]]) -> list[list[float]]:
        """Return the loss in nats of each window's tokens but the first."""
        return [self._score(window) for window in windows]

    def _score(self, window: list[int]) -> list[float]:
        cache = self._make_room(len(window))
        nats: list[float] = []
        for start in range(0, len(window) - 1, self._chunk_tokens):
            targets = window[start + 1 : start + 1 + self._chunk_tokens]
            tokens = window[start : start + len(targets)]
            part = Part(cache=cache, tokens=tokens, wanted=range(len(tokens)))
            (logits,) = self._decoder.step([part])
            nats += find_losses(logits, targets)
        self._decoder.release(cache)
        return nats

    def _generate(
        self,
        caches: Sequence[Cache],
        tokens_now: Sequence[int],
        *,
        tokens: int,
        adapters: Sequence[Adapter | None],
    ) -> float:
        current = list(tokens_now)
        begun_s = time.perf_counter()
        for _ in range(tokens):
            parts = [
                Part(cache=cache, tokens=[token], adapter=adapter, wanted=(0,))
                for cache, token, adapter in zip(caches, current, adapters, strict=True)
            ]
            current = [int(np.argmax(logits[0])) for logits in self._decoder.step(parts)]
        return tokens * len(caches) / (time.perf_counter() - begun_s)

    def _read(
        self, prompt: Sequence[int], *, adapter: Adapter | None, room: int, last: int | None = None
    ) -> Cache:
        """Read `prompt` into a new cache; with `last`, that too, and choose a token after it."""
        cache = self._make_room(room)
        tokens = [*prompt] if last is None else [*prompt, last]
        for start in range(0, len(tokens), self._chunk_tokens):
            chunk = tokens[start : start + self._chunk_tokens]
            ends = last is not None and start + len(chunk) == len(tokens)
            wanted = (len(chunk) - 1,) if ends else ()
            answer = self._decoder.step(
                [Part(cache=cache, tokens=chunk, adapter=adapter, wanted=wanted)]
            )
            if ends:
                np.argmax(answer[0][0])
        return cache

    def _reuse(self, prompt: list[int]) -> Cache | None:
        if self._kept is None:
            return None
        kept, cache = self._kept
        if kept == prompt:
            return cache
        self._decoder.release(cache)
        self._kept = None
        return None

    def _make_room(self, tokens: int) -> Cache:
        cache = self._decoder.new_cache()
        self._reserve(cache, tokens)
        return cache

    def _reserve(self, cache: Cache, tokens: int) -> None:
        if tokens > self._decoder.context_tokens or not self._decoder.reserve(cache, tokens):
            raise EngineError(f"the cache has no room for {tokens} tokens")

    def _adapter(self, index: int) -> Adapter:
        while len(self._adapters) <= index:
            self._adapters.append(draw_adapter(self._declaration, seed=len(self._adapters)))
        return self._adapters[index]


def draw_adapter(declaration: Declaration, *, seed: int) -> Adapter:
    """Make an adapter of rank 8 that changes something everywhere: none of its tensors is zero."""
    rng = np.random.Generator(np.random.PCG64(seed))
    tensors = create_tensors(declaration, rank=RANK, seed=seed)
    for name, tensor in tensors.items():
        if not tensor.any():
            tensors[name] = rng.standard_normal(tensor.shape, np.float32) * np.float32(1e-3)
    return Adapter(f"bench/{seed}", tensors)


def find_losses(logits: np.ndarray, targets: Sequence[int]) -> list[float]:
    """Return the losses in nats of `targets` under logits [tokens, vocabulary]."""
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    norm = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return (norm - wide[np.arange(len(targets)), targets]).tolist()
