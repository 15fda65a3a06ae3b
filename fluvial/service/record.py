"""How the service puts acts on record: those of people, and those of the machine by itself."""

import logging
from collections.abc import Callable
from typing import final

from fluvial.errors import StorageError
from fluvial.service.protocol import Audit
from fluvial.types import Holding, Session, Version

SYSTEM = "system"

Value = str | int | float | bool | None
Tell = Callable[[str, Session, object], None]

log = logging.getLogger(__name__)


@final
class Record:
    """Writes to the audit log. Its methods block on the disk; any thread may call them."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    def note_act(self, kind: str, session: Session, **detail: Value) -> None:
        """Record what the owner of a session did to it.

        Raises StorageError `audit_failed`: the act is done then, and who did it is told that it
        is not on record.
        """
        self.note_by(session.owner, kind, session.id, **detail)

    def note_by(self, actor: str, kind: str, subject: str, **detail: Value) -> None:
        """Record what somebody did to anything. Raises as `note_act` does."""
        try:
            self._audit.append(kind, actor=actor, subject=subject, detail=detail)
        except StorageError as error:
            raise StorageError(
                f"this was done, but could not be put on record: {error.message}",
                code="audit_failed",
            ) from error

    def note_own(self, kind: str, subject: str, **detail: Value) -> None:
        """Record what the machine did by itself; never raises, since nobody waits for it.

        What the disk refuses is logged, counted, and told by the next entry that it takes.
        """
        try:
            self._audit.append(kind, actor=SYSTEM, subject=subject, detail=detail)
        except StorageError as error:
            log.error("%s of %s is not on record: %s", kind, subject, error)

    def listen(self, tell: Tell) -> Tell:
        """Return `tell`, which the reader calls, with a record of the versions among its events."""

        def tell_and_note(kind: str, session: Session, changed: object) -> None:
            tell(kind, session, changed)
            if kind == "version" and isinstance(changed, Version):
                self.note_own("version.created", session.id, **describe_version(changed))

        return tell_and_note

    def note_discard(self, holding: Holding) -> None:
        """Record that a version went over a quota or past its time; never raises."""
        self.note_own("version.expired", holding.session, version=holding.number)

    def forget(self, session: Session) -> None:
        """Remove the texts that were kept of a session. Raises StorageError."""
        self._audit.forget(session.id)


def describe_version(version: Version) -> dict[str, Value]:
    """Return what the audit log says of a version: what it is, and what it was made of."""
    return {
        "version": version.number,
        "id": version.id,
        "origin": version.origin,
        "sha256": version.sha256,
        "parents": " ".join(version.parents),
        "drift": version.drift,
    }
