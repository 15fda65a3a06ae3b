"""A decoder that follows a script, with the tokenizer and template to match: no model needed.

Token ids 0 to 255 are bytes, 256 ends an answer.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fluvial.engine.engine import Engine
from fluvial.engine.generation import Generation
from fluvial.types import Delta, Message, Sampling
from tests.engine.fake import FakeCache, FakeDecoder

EOS = 256
VOCAB = 257
GREEDY = Sampling(temperature=0.0)


class ByteTokenizer:
    vocab_size = VOCAB
    eos_ids = frozenset({EOS})
    marks = {"<end>": EOS}

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < EOS else b""


class PlainTemplate:
    def close(self) -> None:
        """Nothing to close."""

    def encode(
        self, messages: Sequence[Message], *, tokenizer: ByteTokenizer, tools: Sequence[object] = ()
    ) -> list[int]:
        return [token for message in messages for token in tokenizer.encode(message.content)]


def shout(prompt: bytes) -> bytes:
    return prompt.upper().replace(b"\n", b" ")


class ScriptDecoder(FakeDecoder):
    """Answers each prompt with `answer(prompt)`, one line, then EOS."""

    def __init__(
        self,
        answer: Callable[[bytes], bytes] = shout,
        *,
        vocab_size: int = VOCAB,
        **options: object,
    ) -> None:
        super().__init__(vocab_size=vocab_size, **options)
        self.answer = answer

    def logits(self, cache: FakeCache) -> np.ndarray:
        """Point at the script's next token; a prompt ends with a newline."""
        prompt, _, said = bytes(cache.tokens).rpartition(b"\n")
        script = [*self.answer(prompt), EOS]
        logits = np.zeros(VOCAB, np.float32)
        logits[script[min(len(said), len(script) - 1)]] = 5.0
        return logits


def start(decoder: FakeDecoder, **options: object) -> Engine:
    return Engine(
        decoder, name="script", tokenizer=ByteTokenizer(), template=PlainTemplate(), **options
    )


def ask(engine: Engine, text: str, *, lane: str = "a", **options: object) -> Generation:
    """Ask for an answer to `text`; greedy unless told otherwise."""
    own = {n: options.pop(n) for n in ("adapter", "owner", "deadline_s") if n in options}
    sampling = Sampling(**{"temperature": 0.0, **options})
    message = Message(role="user", content=text + "\n")
    return engine.generate([message], sampling=sampling, lane=lane, **own)


def read(generation: Generation) -> tuple[str, Delta]:
    """Read an answer to its end; return its text and its last delta."""
    deltas = list(generation)
    assert all(delta.finish is None and delta.usage is None and delta.text for delta in deltas[:-1])
    return "".join(delta.text for delta in deltas), deltas[-1]
