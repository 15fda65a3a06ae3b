"""Progress on stderr: a bar on a terminal, else one line for every tenth of the way."""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from fluvial.cli.terminal import clean, name_duration, write_note

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

UNKNOWN_STEP_BYTES = 50_000_000
_FIRST_SPEED_S = 0.2


class Bar:
    """A bar that counts to a total. It is drawn from `start` to the end of the `with` block."""

    def __init__(self, *, unit: str) -> None:
        from rich.console import Console

        self._unit = unit
        self._console = Console(stderr=True, highlight=False)
        self._rich: Progress | None = None
        self._label, self._total, self._done, self._shown = "", None, 0, 0
        self._began_s = 0.0
        self._left_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def start(self, label: str, *, total: int | None) -> None:
        """Begin a new bar; an earlier one is left as it stands."""
        self._stop()
        self._label, self._total, self._done, self._shown = clean(label), total, 0, 0
        self._began_s, self._left_s = time.monotonic(), None
        if self._console.is_terminal:
            from rich.progress import Progress

            self._rich = Progress(*self._columns(), console=self._console)
            self._rich.start()
            self._rich.add_task(self._label, total=total, left="")

    def is_at(self, label: str) -> bool:
        """Tell whether the bar that is drawn now is the one of `label`."""
        return self._label == clean(label)

    def advance(self, count: int) -> None:
        """Move on (or back) by `count`."""
        self.reach(self._done + count, total=self._total)

    def reach(self, done: int, *, total: int | None, left_s: float | None = None) -> None:
        """Stand at `done` of `total`; `left_s` is the time left where someone else knows better."""
        self._done, self._total, self._left_s = done, total, left_s
        if self._rich is not None:
            left = "" if left_s is None else f"{name_duration(left_s)} left"
            task = self._rich.task_ids[-1]
            self._rich.update(task, completed=done, total=total, left=left)
            return
        step = self._count_steps()
        if step > self._shown:
            self._shown = step
            write_note(self._describe())

    def note(self, text: str) -> None:
        """Write a remark above the bar."""
        self._console.print(clean(text), markup=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._rich is not None:
            self._rich.stop()
            self._rich = None

    def _count_steps(self) -> int:
        if self._total is None:
            return self._done // UNKNOWN_STEP_BYTES
        return 10 * self._done // self._total if self._total else 0

    def _describe(self) -> str:
        text = f"{self._label}: {self._name(self._done)}"
        if self._total:
            text = f"{self._label}: {100 * self._done // self._total}%, "
            text += f"{self._name(self._done)} of {self._name(self._total)}"
        elapsed_s = time.monotonic() - self._began_s
        if elapsed_s > _FIRST_SPEED_S and self._done > 0:
            speed = self._done / elapsed_s
            text += f", {self._name(round(speed))}/s"
            if self._total and self._total > self._done:
                left_s = self._left_s or (self._total - self._done) / speed
                text += f", {name_duration(left_s)} left"
        return text

    def _name(self, count: int) -> str:
        if self._unit == "B":
            from fluvial.model.source.disk import name_bytes

            return name_bytes(count)
        return f"{count:,} {self._unit}"

    def _columns(self) -> "list[ProgressColumn]":
        from rich import progress as rich

        task = rich.TextColumn("{task.description}", markup=False)
        if self._unit == "B":
            sizes = rich.DownloadColumn()
            left = rich.TimeRemainingColumn(compact=True)
            return [task, rich.BarColumn(), sizes, rich.TransferSpeedColumn(), left]
        count = rich.TextColumn("{task.completed:.0f}/{task.total} " + self._unit, markup=False)
        left = rich.TextColumn("{task.fields[left]}", markup=False)
        return [task, rich.BarColumn(), count, left]


class TransferBar:
    """Shows how a model arrives; a `fluvial.model.source.Progress`."""

    def __init__(self) -> None:
        self._bar = Bar(unit="B")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.__exit__(None, None, None)

    def start(self, label: str, *, total_bytes: int | None) -> None:
        """Begin the bar of one transfer."""
        self._bar.start(label, total=total_bytes)

    def advance(self, count_bytes: int) -> None:
        """Count bytes that arrived."""
        self._bar.advance(count_bytes)

    def note(self, text: str) -> None:
        """Write a remark."""
        self._bar.note(text)
