"""A session's windows on what it reads, one for each side: where one goes on, and where it ends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fluvial.adapt.live import Live
from fluvial.adapt.rule import Place, Read, Rule, keep_last
from fluvial.adapt.tracer import Asked, Tracer

Side = Literal["frozen", "adapted"]
MOST_ROWS = 512
"""Tokens of all windows that are scored at once: more make a step no faster, only larger."""


@dataclass(eq=False)
class _Window:
    """An open window, and the place that continues it."""

    inner: Any
    next: Place
    tokens: int = 0


class Windows:
    """The open windows of one session."""

    def __init__(self, tracer: Tracer, *, rule: Rule) -> None:
        self._tracer, self._rule = tracer, rule
        self._open: dict[Side, _Window] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __getitem__(self, side: Side) -> Any:
        """Return what the tracer has of an open window."""
        return self._open[side].inner

    def ask(
        self,
        live: Live | None,
        *,
        context: Sequence[int],
        chunk: Sequence[int],
        place: Place | None,
    ) -> Asked:
        """Return what to score a chunk by; it is then taken as read. `live` None: the frozen side.

        Opens a window where none can go on, which overwrites what a step left to learn from.
        """
        side: Side = "frozen" if live is None else "adapted"
        window = self._open.get(side)
        full = window is not None and window.tokens + len(chunk) > self._rule.stride_tokens
        if window is None or place is None or window.next != place or full:
            self._close_one(side)
            kept = keep_last(context, self._rule.overlap_tokens)
            inner = self._tracer.open(kept, live, learns=live is not None)
            window = self._open[side] = _Window(inner, ("", 0))
        window.tokens += len(chunk)
        window.next = ("", 0) if place is None else (place[0], place[1] + len(chunk))
        return Asked(window.inner, chunk, live)

    def close(self) -> None:
        """Let go of all."""
        while self._open:
            self._tracer.close(self._open.popitem()[1].inner)

    def _close_one(self, side: Side) -> None:
        window = self._open.pop(side, None)
        if window is not None:
            self._tracer.close(window.inner)


def cut(reads: Sequence[Read]) -> Iterator[list[Read]]:
    """Part reads into batches of at most MOST_ROWS rows, but at least one read each."""
    batch: list[Read] = []
    rows = 0
    for read in reads:
        wanted = len(read.chunk) * (1 + read.compare)
        if batch and rows + wanted > MOST_ROWS:
            yield batch
            batch, rows = [], 0
        batch.append(read)
        rows += wanted
    if batch:
        yield batch
