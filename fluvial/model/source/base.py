"""What every source has in common: its plan, what it delivers, and how it reports progress."""

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from fluvial.errors import SourceError

ANSWER_LIMIT_S = 5.0
"""A source that has not answered its first question by then is passed over."""

MODEL_FILE = "model.gguf"
"""The name a single-file model has once it is delivered, whatever its source called it."""

T = TypeVar("T")


class Progress(Protocol):
    """Hears how a transfer goes. Methods are called from one thread."""

    def start(self, label: str, *, total_bytes: int | None) -> None: ...

    def advance(self, count_bytes: int) -> None: ...

    def note(self, text: str) -> None: ...


class Silent:
    """A Progress that says nothing."""

    def start(self, label: str, *, total_bytes: int | None) -> None: ...

    def advance(self, count_bytes: int) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a source answered before anything is moved.

    `content_bytes` is the size of what will be delivered (None: not told); `scratch_bytes` is what
    the disk must hold beside it for a while.
    """

    content_bytes: int | None
    scratch_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A folder holding exactly the model's files. `sha256` is None when they are several."""

    folder: Path
    sha256: str | None


class Source(Protocol):
    """One place a model can come from."""

    @property
    def spec(self) -> str: ...

    def contact(self) -> Plan:
        """Ask what there is. Raises SourceError when it isn't there, or no answer came in time."""
        ...

    def deliver(self, work: Path, *, progress: Progress) -> Delivery:
        """Bring the files into a folder inside `work`, going on from what is there already."""
        ...


def ask(question: Callable[[], T], *, of: str, limit_s: float | None = None) -> T:
    """Call `question` and wait at most `limit_s` for it, name look-ups included.

    Socket time limits don't cover name look-ups, nor a server that sends one byte a second: so the
    call runs in a thread that is left behind when it is late. Raises SourceError naming `of` then.
    """
    limit_s = ANSWER_LIMIT_S if limit_s is None else limit_s
    answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answers.put((question(), None))
        except BaseException as error:  # handed to the caller's thread
            answers.put((None, error))

    threading.Thread(target=run, name="source-ask", daemon=True).start()
    try:
        value, error = answers.get(timeout=limit_s)
    except queue.Empty:
        raise SourceError(f"{of} did not answer within {limit_s:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
