"""A decoder that follows a script, with the tokenizer and template to match: no model needed.

Token ids 0 to 255 are bytes, 256 ends an answer.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fluvial.engine.engine import Engine
from fluvial.engine.generation import Generation
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Sampling

EOS = 256
VOCAB = 257
GREEDY = Sampling(temperature=0.0)


class ByteTokenizer:
    vocab_size = VOCAB
    eos_ids = frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < EOS else b""


class PlainTemplate:
    def close(self) -> None:
        """Nothing to close."""

    def encode(self, messages: Sequence[Message], *, tokenizer: ByteTokenizer) -> list[int]:
        return [token for message in messages for token in tokenizer.encode(message.content)]


@dataclass(eq=False)
class ScriptCache:
    capacity: int
    tokens: list[int] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)

    @property
    def length(self) -> int:
        return len(self.tokens)


@dataclass
class Step:
    tokens: list[int]
    start: int
    key: str | None


def shout(prompt: bytes) -> bytes:
    return prompt.upper().replace(b"\n", b" ")


class ScriptDecoder:
    """Answers each prompt with `answer(prompt)`, one line, then EOS. Records every step.

    `gate`: called in each step before it happens, so that a test can hold the engine there.
    """

    def __init__(
        self,
        answer: Callable[[bytes], bytes] = shout,
        *,
        context_tokens: int = 1024,
        gate: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.context_tokens = context_tokens
        self.vocab_size = VOCAB
        self.answer = answer
        self.gate = gate
        self.steps: list[Step] = []
        self.caches: list[ScriptCache] = []
        self.threads: set[int] = set()

    def new_cache(self, capacity_tokens: int) -> ScriptCache:
        self.caches.append(ScriptCache(capacity_tokens))
        return self.caches[-1]

    def truncate(self, cache: ScriptCache, length: int) -> None:
        assert 0 <= length <= cache.length
        del cache.tokens[length:], cache.keys[length:]

    def forward(
        self, token_ids: Sequence[int], *, cache: ScriptCache, adapter: Adapter | None
    ) -> np.ndarray:
        assert len(token_ids) > 0
        self.threads.add(threading.get_ident())
        key = adapter.key if adapter else None
        step = Step(list(token_ids), cache.length, key)
        self.gate(step)
        self.steps.append(step)
        cache.tokens.extend(token_ids)
        cache.keys.extend([key] * len(token_ids))
        assert cache.length <= cache.capacity
        return self.logits(cache)

    def logits(self, cache: ScriptCache) -> np.ndarray:
        """Point at the script's next token; a prompt ends with a newline."""
        prompt, _, said = bytes(cache.tokens).rpartition(b"\n")
        script = [*self.answer(prompt), EOS]
        logits = np.zeros(VOCAB, np.float32)
        logits[script[min(len(said), len(script) - 1)]] = 5.0
        return logits


def start(decoder: ScriptDecoder, **options: object) -> Engine:
    return Engine(
        decoder, name="script", tokenizer=ByteTokenizer(), template=PlainTemplate(), **options
    )


def ask(engine: Engine, text: str, *, lane: str = "a", **options: object) -> Generation:
    """Ask for an answer to `text`; greedy unless told otherwise."""
    adapter = {"adapter": options.pop("adapter")} if "adapter" in options else {}
    sampling = Sampling(**{"temperature": 0.0, **options})
    message = Message(role="user", content=text + "\n")
    return engine.generate([message], sampling=sampling, lane=lane, **adapter)


def read(generation: Generation) -> tuple[str, Delta]:
    """Read an answer to its end; return its text and its last delta."""
    deltas = list(generation)
    assert all(delta.finish is None and delta.usage is None and delta.text for delta in deltas[:-1])
    return "".join(delta.text for delta in deltas), deltas[-1]
