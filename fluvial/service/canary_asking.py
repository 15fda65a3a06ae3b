"""Canaries asked of the served model without anyone noticing: only while nobody waits for it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from fluvial.errors import BusyError, ContextLengthError, EngineError
from fluvial.gate.canary import ANSWER_TOKENS, Canary, order
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Sampling

LANE = "canaries"
"""Lane and owner in the engine: nothing that is cached for canaries serves anyone else."""

TURNS_AT_ONCE = 2
"""Whoever comes meanwhile waits for the step under way: so steps are short, one canary at a time,
and what stands before its prompt is read in a few turns at once."""

LOOK_S = 0.01
PATIENCE_S = 60.0
"""So long canaries give way in all; then they go on, one at a time, beside others."""


class Answering(Protocol):
    """An answer on its way. See `fluvial.engine.generation.Generation`."""

    @property
    def ended(self) -> bool: ...

    def cancel(self) -> None: ...

    def __iter__(self) -> Iterator[Delta]: ...


class Engine(Protocol):
    """What canaries need of the engine."""

    @property
    def running(self) -> int: ...

    @property
    def waiting(self) -> int: ...

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        adapter: Callable[[], Adapter | None],
        owner: str | None,
    ) -> Answering: ...

    def forget(self, lane: str) -> None: ...


class ClosingError(Exception):
    """The server ends; what was not answered is asked again after the next start."""


class Asker:
    """Asks canaries, and takes them back whenever somebody else wants an answer."""

    def __init__(self, engine: Engine, *, closing: threading.Event) -> None:
        self._engine, self._closing = engine, closing

    def ask(self, canaries: Sequence[Canary], adapter: Adapter | None) -> list[str]:
        """Return the answers in the order of the canaries; "" for one that does not fit.

        Blocks for long. Raises EngineError where the model fails, ClosingError at the end.
        """
        found: dict[str, str] = {}
        try:
            leading, others = order(canaries)
            for canary in leading:
                self._read_beginning(canary, adapter)
            self._ask_all([*leading, *others], adapter, found)
        finally:
            self._engine.forget(LANE)
        return [found[canary.sha256] for canary in canaries]

    def _read_beginning(self, canary: Canary, adapter: Adapter | None) -> None:
        """Have the engine keep what stands before a canary, piece by piece."""
        for end in range(0, len(canary.turns), TURNS_AT_ONCE):
            piece = replace(canary, turns=canary.turns[:end], prompt=canary.turns[end][0] or "-")
            self._ask_all([piece], adapter, {}, tokens=1)

    def _ask_all(
        self,
        group: Sequence[Canary],
        adapter: Adapter | None,
        found: dict[str, str],
        *,
        tokens: int = ANSWER_TOKENS,
    ) -> None:
        left, patience_s = list(group), PATIENCE_S
        while left:
            begun_s = time.monotonic()
            gives_way = patience_s > 0
            if gives_way and self._is_wanted(0):
                self._pause()
            else:
                text = self._ask_one(left[0], adapter, tokens=tokens, gives_way=gives_way)
                if text is not None:
                    found[left.pop(0).sha256] = text
                continue
            patience_s -= time.monotonic() - begun_s

    def _ask_one(
        self, canary: Canary, adapter: Adapter | None, *, tokens: int, gives_way: bool
    ) -> str | None:
        """Return the answer to one; None if it must be asked again: it gave way to others."""
        try:
            answer = self._engine.generate(
                canary.list_messages(),
                sampling=Sampling(temperature=0, max_tokens=tokens),
                lane=LANE,
                adapter=lambda: adapter,
                owner=LANE,
            )
        except ContextLengthError:
            return ""
        except BusyError:
            self._pause()
            return None
        try:
            while not answer.ended and not (gives_way and self._is_wanted(1)):
                self._pause()
        finally:
            answer.cancel()  # one that has ended has ended
        deltas = list(answer)
        finish = deltas[-1].finish if deltas else "cancelled"
        if finish == "error":
            raise EngineError("an answer to a canary failed")
        return None if finish == "cancelled" else "".join(delta.text for delta in deltas)

    def _is_wanted(self, ours: int) -> bool:
        """Tell whether the engine has more to do than so many answers of ours."""
        return self._engine.running + self._engine.waiting > ours

    def _pause(self) -> None:
        if self._closing.wait(LOOK_S):
            raise ClosingError
