"""What the service needs from the layers it joins, as small protocols."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, Protocol, Self

from fluvial.model.adapter import Adapter
from fluvial.types import Delta, Message, Reading, Sampling, Tool

LearnerState = Literal["starting", "ready", "restarting", "off"]


class Tokenizer(Protocol):
    @property
    def vocab_size(self) -> int: ...

    def token_bytes(self, token_id: int) -> bytes: ...

    def encode(self, text: str) -> list[int]: ...


class Generation(Protocol):
    """An answer being generated: pieces in order, the last with `finish` and `usage`."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Delta: ...

    def cancel(self) -> None: ...


class Engine(Protocol):
    """A checkpoint running. See `fluvial.engine.engine.Engine`."""

    @property
    def name(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def count(self, messages: Sequence[Message]) -> int: ...

    def generate(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        lane: str,
        adapter: Callable[[], Adapter | None] = ...,
        owner: str | None = ...,
        deadline_s: float | None = ...,
    ) -> Generation: ...

    def generate_many(
        self,
        messages: Sequence[Message],
        *,
        n: int,
        sampling: Sampling,
        lane: str,
        tools: Sequence[Tool] = ...,
        owner: str | None = ...,
        deadline_s: float | None = ...,
    ) -> Sequence[Generation]: ...

    def forget(self, lane: str) -> None: ...

    def forget_adapters(self, keys: Collection[str], *, owner: str) -> None: ...

    def close(self) -> None: ...


class Reader(Protocol):
    """The background thread that reads texts. See `fluvial.adapt.reader.Reader`."""

    def start(self) -> None: ...

    def close(self) -> None: ...

    def wake(self) -> None: ...

    def cancel(self, reading: Reading) -> None: ...

    def live(self, reading: Reading) -> Reading: ...

    def speed(self, reading_id: str) -> float | None: ...


class Learner(Protocol):
    """The learner process, as far as its health goes."""

    @property
    def state(self) -> LearnerState: ...


class Audit(Protocol):
    """The record of what was done here. See `fluvial.store.audit.AuditLog`."""

    @property
    def missed(self) -> int:
        """Tell how many entries the disk refused since the last one that it took."""
        ...

    def append(
        self,
        kind: str,
        *,
        actor: str,
        subject: str,
        detail: Mapping[str, str | int | float | bool | None],
    ) -> None:
        """Put an entry on record; once this returns, it is safe on the disk.

        `kind` is such as "guard.refused"; `actor` who did it ("local", "system", an owner);
        `subject` what it was done to (the id of a session, a version, a release). Never put a text
        into `detail` that someone wrote. Blocks on the disk; any thread may call it. Raises
        StorageError when the disk refuses: the act itself is the caller's to undo, or to report.
        """
        ...

    def describe(self, text: str, *, session: str | None = None) -> Mapping[str, str | int]:
        """Return what `detail` may say of a text: `text_hmac`, a keyed digest, and `text_chars`.

        Give the text's session, so that what the setting `audit_texts` keeps goes away with it.
        Raises StorageError.
        """
        ...

    def digest(self, text: str) -> str:
        """Return the keyed digest of a secret, which is never kept."""
        ...

    def forget(self, session: str) -> None:
        """Remove what was kept of a session's texts; its entries stay. Raises StorageError."""
        ...
