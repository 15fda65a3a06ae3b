"""Sessions and readings together with what only the running service knows of them."""

from dataclasses import dataclass

from fluvial.types import Reading, Session, StoredMessage, Version


@dataclass(frozen=True, kw_only=True)
class SessionState:
    """A session now. `used_tokens` is None where not counted: in lists, for another model."""

    session: Session
    busy: bool
    reading: bool
    available: bool
    used_tokens: int | None
    limit_tokens: int


@dataclass(frozen=True, kw_only=True)
class ReadingState:
    """A reading now. `tokens_per_s` is None unless it is under way and was measured.

    `has_text` is False once the text was removed.
    """

    reading: Reading
    has_text: bool
    tokens_per_s: float | None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at the present speed; None where that can't be said."""
        total = self.reading.tokens_total
        if not self.tokens_per_s or total is None:
            return None
        return max(0, total - self.reading.tokens_read) / self.tokens_per_s


@dataclass(frozen=True, kw_only=True)
class VersionList:
    """The versions of a session, oldest first, and the number of the one in force.

    `bytes` of the `limit_bytes` that the session's versions may take; the drift that one may have.
    """

    current: int
    versions: list[Version]
    bytes: int
    limit_bytes: int
    drift_budget: float


def is_unfinished(reading: Reading) -> bool:
    """Tell whether a reading waits or is under way."""
    return reading.status in ("queued", "reading")


def is_active(reading: Reading) -> bool:
    """Tell whether a session counts as reading because of this one.

    Short messages wait in the queue until they are worth a step; nothing happens meanwhile.
    """
    return reading.status == "reading" or (
        reading.status == "queued" and reading.kind == "document"
    )


def make_title(text: str, *, limit_chars: int = 60) -> str:
    """Make a one-line title of a message, cut at a word where it is too long."""
    line = " ".join(text[: 4 * limit_chars].split())
    if len(line) <= limit_chars:
        return line
    head = line[: limit_chars - 1]
    word = head.rsplit(" ", 1)[0]
    return (word if len(word) >= limit_chars // 2 else head).rstrip() + "…"


def last_id(messages: list[StoredMessage]) -> str | None:
    """Name the last message of a conversation; None where it is empty."""
    return messages[-1].id if messages else None
