"""The versions of a session's adapter, as people handle them.

A handle names a version within its session: its number, or its id or the beginning of that.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fluvial.adapt.history import History
from fluvial.config import Settings
from fluvial.errors import ConflictError, InputError, NotFoundError
from fluvial.service.hub import Hub
from fluvial.service.name import check_name
from fluvial.service.reading import Readings
from fluvial.service.record import Record, describe_version
from fluvial.service.state import VersionList
from fluvial.store import Store
from fluvial.types import BASE_VERSION, Session, StoredMessage, Version

LEAST_ID_CHARS = 4
"""Shortest beginning of an id that counts as a handle."""

_NUMBER = re.compile(r"-?[0-9]{1,11}", re.ASCII)
_ID = re.compile(rf"[0-9a-f]{{{LEAST_ID_CHARS},64}}", re.ASCII)

Make = Callable[[Session], tuple[Session, Version]]
"""Makes a version and puts it in force; returns the session as it is then."""


class Versions:
    """What sessions have learned. Methods may block on the disk; any thread may call them."""

    def __init__(
        self,
        *,
        settings: Settings,
        store: Store,
        history: History,
        readings: Readings,
        hub: Hub,
        record: Record,
        is_busy: Callable[[str], bool],
    ) -> None:
        """Join the parts; `is_busy` tells whether an answer is being written in a session."""
        self._settings = settings
        self._store = store
        self._history = history
        self._readings = readings
        self._hub = hub
        self._record = record
        self._is_busy = is_busy

    # Finding

    def list_all(self, session: Session) -> VersionList:
        """List the versions of a session, oldest first, without the base."""
        return VersionList(
            current=self._now(session).version,
            versions=self._store.versions(session),
            bytes=self._store.holdings.count_bytes(session=session.id),
            limit_bytes=self._settings.session_versions_bytes,
            drift_budget=self._settings.drift_budget,
        )

    def resolve(self, session: Session, handle: str) -> int:
        """Return the number of the version that a handle names; 0 is the base.

        Raises NotFoundError, InputError for what is no handle, and ConflictError
        `version_ambiguous` where an id, or its beginning, names several.
        """
        if _NUMBER.fullmatch(handle):
            number = int(handle)
            if number != BASE_VERSION:
                self._store.version(session, number)
            return number
        if not _ID.fullmatch(handle):
            raise InputError(
                f"{handle[:80]!r} names no version; give its number, or {LEAST_ID_CHARS} or more "
                "of the first digits of its id",
                param="version",
            )
        found = [v.number for v in self._store.versions(session) if v.id.startswith(handle)]
        if not found:
            raise NotFoundError(f"session {session.id} has no version {handle}", param="version")
        if len(found) > 1:
            numbers = ", ".join(map(str, found))
            raise ConflictError(
                f"{handle} is the versions {numbers}; give a number",
                code="version_ambiguous",
                param="version",
            )
        return found[0]

    def find(self, session: Session, handle: str) -> Version:
        """Return the version that a handle names. Raises NotFoundError, also for the base."""
        return self._store.version(session, self.resolve(session, handle))

    def file(self, session: Session, handle: str) -> Path:
        """Return the safetensors file of a version. Raises NotFoundError."""
        version = self.find(session, handle)
        path = self._store.version_path(session, version.number)
        if not path.is_file():
            raise NotFoundError(
                f"the file of version {version.number} is missing", code="version_missing"
            )
        return path

    def require_passable(self, session: Session, number: int) -> None:
        """Raise ConflictError `canary_failed` for a version that failed its canaries."""
        if self._settings.canaries == "on" and (
            self._store.checks.outcome(session, number) == "failed"
        ):
            raise ConflictError(
                f"version {number} failed hidden test questions that the base passes; restore "
                "another one. A branch of it is tested again",
                code="canary_failed",
                param="version",
            )

    # Changing

    def restore(self, session: Session, handle: str) -> Session:
        """Put a version (0: the base) in force; readings under way stop, or they would learn on."""
        number = self.resolve(session, handle)
        self.require_passable(session, number)
        self._readings.stop_all(session)
        before = self._now(session)
        restored = self._tell(self._history.restore(before, number))
        self._record.note_act("version.restored", session, version=number, before=before.version)
        return restored

    def pin(self, session: Session, handle: str, *, pinned: bool) -> Version:
        """Keep a version from quota and expiry, or no longer."""
        number = self.resolve(session, handle)
        version = self._store.pin_version(session, number, pinned=pinned)
        self._tell(self._now(session))
        kind = "version.pinned" if pinned else "version.unpinned"
        self._record.note_act(kind, session, version=number)
        return version

    def branch(
        self, session: Session, handle: str, *, title: str = "", messages: bool = False
    ) -> Session:
        """Begin a session with a copy of one version in force, and of the messages if asked to.

        Readings, scores and other versions are not copied. Raises ConflictError `session_busy` for
        messages while an answer is being written.
        """
        number = self.resolve(session, handle)
        title = check_name(title, param="title") or session.title
        copied: Sequence[StoredMessage] = ()
        if messages:
            if self._is_busy(session.id):
                raise ConflictError("an answer is being written in it", code="session_busy")
            copied = self._store.messages(session)
        branch = self._history.branch(self._now(session), number, title=title, messages=copied)
        self._record.note_act("version.branched", session, version=number, branch=branch.id)
        return branch

    def put(self, session: Session, make: Make) -> Version:
        """Put a version that does not come from reading in force; readings under way stop."""
        self._readings.stop_all(session)
        session, version = make(self._now(session))
        self._hub.publish("version", session, version)
        self._tell(session)
        self._record.note_act("version.created", session, **describe_version(version))
        return version

    # Deleting

    def delete(self, session: Session, handle: str) -> None:
        """Delete a version for good: row, file, caches. Raises ConflictError when in force."""
        version = self.find(session, handle)
        session = self._now(session)
        self._history.delete(session, version.number)
        self._tell(session)
        self._record.note_act("version.deleted", session, version=version.number, id=version.id)

    def forget(self, session: Session) -> Session:
        """Delete all versions and scores of a session for good; readings under way stop."""
        self._readings.stop_all(session)
        forgotten = self._tell(self._history.forget(self._now(session)))
        self._record.note_act("session.forgotten", session)
        return forgotten

    # Below

    def _now(self, session: Session) -> Session:
        return self._store.session(session.id, owner=session.owner)

    def _tell(self, session: Session) -> Session:
        self._hub.publish("session", session, session)
        return session
