"""A batch, a fake decoder and a fake clock, driven by hand: every answer is held to its oracle."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fluvial.engine.batch import Batch
from fluvial.engine.generation import Generation, Request
from fluvial.engine.prefix import PrefixStore
from fluvial.engine.sampler import Sampler
from fluvial.engine.scheduler import FairQueue
from fluvial.engine.spill_file import digest
from fluvial.errors import BusyError, EngineError
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Sampling
from tests.engine.fake import FakeDecoder, Step, expect

VOCAB = 12
EOS = 0
POISON = VOCAB
"""A token that no answer holds, and that the decoder fails on."""


class Fault(Exception):
    """What the decoder raises on purpose."""


class LetterTokenizer:
    """One letter a token, so that a text tells its tokens."""

    vocab_size = VOCAB
    eos_ids = frozenset({EOS})
    marks: dict[str, int] = {}

    def token_bytes(self, token_id: int) -> bytes:
        return b"" if token_id == EOS else bytes([64 + token_id])


class FakeSpill:
    """A disk that is a list."""

    def __init__(self, limit: int = 6) -> None:
        self.kept: list[dict[str, Any]] = []
        self._limit = limit

    def put(self, tokens: np.ndarray, *, export: Callable[[], Any], **origin: Any) -> None:
        self.kept.append({"tokens": tokens.tolist(), "tensors": export(), **origin})
        del self.kept[: -self._limit]

    def find(self, tokens: Sequence[int], *, owner: str, key: str | None) -> "FakeFound | None":
        best = None
        for each in self.kept:
            if (each["owner"], each["key"]) == (owner, key):
                common = count_common(each["tokens"], tokens)
                if common and (best is None or common > best.common_tokens):
                    best = FakeFound(FakeKept(lane=each["lane"], data=each), common)
        return best

    def load(self, found: "FakeFound") -> tuple[list[int], Any]:
        return found.kept.data["tokens"], found.kept.data["tensors"]

    def discard(self, found: "FakeFound") -> None:
        raise AssertionError("nothing here is damaged")

    def flush(self) -> None:
        """Everything is written at once."""

    def forget(self, lane: str) -> None:
        self.kept = [each for each in self.kept if each["lane"] != lane]


@dataclass
class FakeKept:
    lane: str
    data: dict[str, Any]


@dataclass
class FakeFound:
    kept: FakeKept
    common_tokens: int


@dataclass(eq=False)
class Asked:
    """A request, and what is known of it from outside."""

    generation: Generation
    prompt: list[int]
    sampling: Sampling
    limit: int
    lane: str
    owner: str
    choice: int
    bound: int
    """The step by which it must have ended."""
    deadline_s: float | None
    cancelled: bool = False
    keys: dict[int, str | None] = field(default_factory=dict)
    """Adapter keys by how many tokens were drawn when they were asked for."""


class World:
    """Steps a batch, and checks after every step that all books are right."""

    def __init__(
        self,
        *,
        recurrent: bool = False,
        copies_late: bool = True,
        pages: int = 24,
        page_tokens: int = 4,
        context: int = 64,
        batch_limit: int = 4,
        step_tokens: int = 16,
        queue_limit: int = 12,
        lanes: int = 5,
        spill: bool = False,
        fault_rate: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.steps = 0
        self.capacity = min(context, pages * page_tokens)
        self.fault_rate = fault_rate
        self.lone_faults = 0
        self.unexplained = 0
        self.ended = 0
        self.finishes: dict[str, int] = {}
        self.cached_tokens = 0
        self.alive: list[Asked] = []
        self.spoken: dict[str, list[int]] = {}
        self.versions = {f"lane {n}": 0 for n in range(lanes)}
        self.lanes = list(self.versions)
        self._batch_limit = batch_limit
        self.decoder = FakeDecoder(
            vocab_size=VOCAB,
            context_tokens=context,
            page_tokens=page_tokens,
            total_pages=pages,
            recurrent=recurrent,
            copies_late=copies_late,
            gate=self._gate,
            record=False,
        )
        self.queue: FairQueue[Generation] = FairQueue(queue_limit)
        self.disk = FakeSpill() if spill else None
        self.prefixes = PrefixStore(self.decoder, spill=self.disk, idle_s=40.0)
        self.batch = Batch(
            self.decoder,
            queue=self.queue,
            tokenizer=LetterTokenizer(),
            prefixes=self.prefixes,
            batch_limit=batch_limit,
            step_tokens=step_tokens,
            clock=lambda: self.now_s,
        )

    def ask(
        self,
        prompt: list[int],
        *,
        lane: str,
        limit: int,
        owner: str | None = None,
        n: int = 1,
        seed: int | None = None,
        deadline_s: float | None = None,
    ) -> list[Asked]:
        """Queue `n` answers; none where the queue is full."""
        heat = {"temperature": 0.0} if seed is None else {"temperature": 1.0, "seed": seed}
        request = Request(
            prompt=prompt,
            sampling=Sampling(**heat, top_p=1.0),
            limit_tokens=limit,
            lane=lane,
            owner=owner or lane,
            deadline_s=None if deadline_s is None else self.now_s + deadline_s,
            shared=n > 1,
        )
        mine = sum(asked.lane == lane for asked in self.alive) + n
        turns = (self._batch_limit + mine * len(self.lanes)) * self.capacity
        asked: list[Asked] = []
        for choice in range(n):
            first = asked[0].generation if asked else None
            each = Asked(
                generation=None,  # type: ignore[arg-type]
                prompt=prompt,
                sampling=request.sampling,
                limit=limit,
                lane=lane,
                owner=request.owner,
                choice=choice,
                bound=self.steps + 2 * turns,
                deadline_s=request.deadline_s,
            )
            one = replace(
                request,
                choice=choice,
                first=first,
                shared=n > 1 and choice == 0,
                adapter=lambda each=each: self._adapter(each),
            )
            each.generation = Generation(one, on_cancel=self.batch.withdraw)
            asked.append(each)
        try:
            self.queue.put(*(each.generation for each in asked), lane=lane)
        except BusyError:
            return []
        self.alive += asked
        return asked

    def cancel(self, asked: Asked) -> None:
        asked.cancelled = True
        asked.generation.cancel()

    def forget(self, lane: str) -> None:
        self.batch.forget(lane)
        name = digest(lane)
        assert all(entry.origin.lane != name for entry in self.prefixes._entries.values())
        assert not self.disk or all(each["lane"] != name for each in self.disk.kept)

    def step(self) -> None:
        """One step of the batch, then every check."""
        self.now_s += 1.0
        self.steps += 1
        self.batch.step()
        self.batch.check()
        before, self.alive = self.alive, [a for a in self.alive if not a.generation.ended]
        for asked in before:
            if asked.generation.ended:
                self._judge(asked)
            else:
                assert self.steps <= asked.bound, "an answer starves"
        self.alive = [
            asked for asked in self.alive if not asked.generation.ended or asked.bound < 0
        ]
        self.alive = [asked for asked in self.alive if asked.bound >= 0]

    def settle(self) -> None:
        """Run until nothing is left; then nothing may be held."""
        while self.alive:
            self.step()
        assert not self.batch.step()
        assert len(self.queue) == 0
        self.batch.close()
        self.batch.check()
        assert self.decoder.free_pages == self.decoder.total_pages
        assert self.unexplained <= self.lone_faults

    def _adapter(self, asked: Asked) -> Adapter | None:
        number = self.versions[asked.lane]
        key = f"{asked.lane}/{number}" if number else None
        asked.keys[len(asked.generation._deltas)] = key
        return Adapter(key, {}) if key else None

    def _gate(self, parts: list[Step]) -> None:
        if any(POISON in part.tokens for part in parts):
            raise Fault("poison")
        if self.fault_rate and self.random.random() < self.fault_rate:
            self.lone_faults += len(parts) == 1
            raise Fault("a fault that passes")

    def _judge(self, asked: Asked) -> None:
        """Hold an answer that ended to what it must be, by a computation of its own."""
        self.ended += 1
        deltas: list[Delta] = []
        try:
            deltas.extend(asked.generation)
        except EngineError as error:
            self._count("error")
            if POISON not in asked.prompt:
                self.unexplained += 1
                # Only faults that were made on purpose may come out.
                if not isinstance(error.__cause__, Fault):
                    raise
            return
        assert [delta.finish for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        text = "".join(delta.text for delta in deltas)
        last = deltas[-1]
        assert last.usage is not None
        assert last.usage.completion_tokens == len(text)
        assert last.usage.prompt_tokens == len(asked.prompt)
        assert 0 <= last.usage.cached_tokens < len(asked.prompt)
        self.cached_tokens += last.usage.cached_tokens
        self._count(str(last.finish))
        said = [ord(letter) - 64 for letter in text]
        more = last.finish == "stop"
        assert said == self._expect(asked, count=len(said) + more)
        assert last.finish != "length" or len(said) == asked.limit
        assert last.finish != "cancelled" or asked.cancelled
        if last.finish == "deadline":
            assert asked.deadline_s is not None
            assert self.now_s >= asked.deadline_s
        assert POISON not in asked.prompt or last.finish in ("cancelled", "deadline")
        self.spoken[asked.owner] = [*asked.prompt, *said]

    def _expect(self, asked: Asked, *, count: int) -> list[int]:
        """Draw `count` tokens alone; fewer only where an end mark comes exactly there."""
        start = len(asked.prompt)
        sampler = Sampler(asked.sampling, VOCAB, choice=asked.choice)
        if count == 0:
            return []

        def key(position: int) -> str | None:
            return asked.keys[0 if position < start else position - start + 1]

        return expect(
            asked.prompt,
            count=count,
            keys=key,
            vocab_size=VOCAB,
            recurrent=self.decoder.recurrent,
            draw=lambda logits: sampler.draw(logits).token,
            ends=frozenset({EOS}),
        )

    def _count(self, finish: str) -> None:
        self.finishes[finish] = self.finishes.get(finish, 0) + 1


def count_common(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count
