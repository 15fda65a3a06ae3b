"""Canaries asked of the served model without anyone noticing: only while nobody waits for it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fluvial.errors import BusyError, ContextLengthError, EngineError
from fluvial.gate.canary import ANSWER_TOKENS, Canary, order
from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Sampling

LANE = "canaries"
"""Lane and owner in the engine: nothing that is cached for canaries serves anyone else."""

AT_ONCE = 4
LOOK_S = 0.02
PATIENCE_S = 60.0
"""So long one set of canaries gives way in all; then they go on one at a time, beside others."""


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
            for group in order(canaries):
                self._ask_all(group, adapter, found)
        finally:
            self._engine.forget(LANE)
        return [found[canary.sha256] for canary in canaries]

    def _ask_all(
        self, group: Sequence[Canary], adapter: Adapter | None, found: dict[str, str]
    ) -> None:
        left, patience_s = list(group), PATIENCE_S
        while left:
            begun_s = time.monotonic()
            gives_way = patience_s > 0
            if gives_way and self._is_wanted(0):
                self._pause()
            else:
                most = AT_ONCE if gives_way else 1
                self._ask_some(left[:most], adapter, found, gives_way=gives_way)
                left = [canary for canary in left if canary.sha256 not in found]
                continue
            patience_s -= time.monotonic() - begun_s

    def _ask_some(
        self,
        canaries: Sequence[Canary],
        adapter: Adapter | None,
        found: dict[str, str],
        *,
        gives_way: bool,
    ) -> None:
        """Ask a few; those that must give way to others are not in `found` then."""
        begun: list[tuple[Canary, Answering]] = []
        try:
            for canary in canaries:
                answer = self._begin(canary, adapter)
                if answer is None:
                    found[canary.sha256] = ""
                else:
                    begun.append((canary, answer))
            self._wait([answer for _, answer in begun], gives_way=gives_way)
        except BusyError:
            self._pause()
        finally:
            for _, answer in begun:
                answer.cancel()  # one that has ended has ended
        for canary, answer in begun:
            deltas = list(answer)
            finish = deltas[-1].finish if deltas else "cancelled"
            if finish == "error":
                raise EngineError("an answer to a canary failed")
            if finish != "cancelled":
                found[canary.sha256] = "".join(delta.text for delta in deltas)

    def _begin(self, canary: Canary, adapter: Adapter | None) -> Answering | None:
        sampling = Sampling(temperature=0, max_tokens=ANSWER_TOKENS)
        messages = canary.list_messages()
        try:
            return self._engine.generate(
                messages, sampling=sampling, lane=LANE, adapter=lambda: adapter, owner=LANE
            )
        except ContextLengthError:
            return None

    def _wait(self, answers: Sequence[Answering], *, gives_way: bool) -> None:
        """Wait until all have ended, or somebody else comes."""
        while ours := sum(not answer.ended for answer in answers):
            if gives_way and self._is_wanted(ours):
                return
            self._pause()

    def _is_wanted(self, ours: int) -> bool:
        """Tell whether the engine has more to do than these answers of ours."""
        return self._engine.running + self._engine.waiting > ours

    def _pause(self) -> None:
        if self._closing.wait(LOOK_S):
            raise ClosingError
