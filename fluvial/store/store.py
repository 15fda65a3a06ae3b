"""The store: one object for all that Fluvial keeps in a data folder."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import final

from fluvial.errors import ConflictError
from fluvial.store.branch import create_branch
from fluvial.store.check import CheckTable
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.file import SessionFolder
from fluvial.store.holding import HoldingTable
from fluvial.store.lock import FolderLock
from fluvial.store.message import MessageTable, Unset
from fluvial.store.opening import open_parts
from fluvial.store.publication import PUBLISHED_FOLDER, PublicationTable
from fluvial.store.reading import ReadingTable
from fluvial.store.score import ScoreTable
from fluvial.store.session import SessionTable
from fluvial.store.version import VersionTable
from fluvial.types import (
    ChunkScore,
    FinishReason,
    GuardNote,
    Learning,
    Message,
    PassageNote,
    Reading,
    ReadingKind,
    ReadingStatus,
    Role,
    Session,
    StoredMessage,
    Version,
)


@final
class Store:
    """Sessions, messages, readings, scores and versions, in `data_dir`. Thread-safe.

    What goes over sessions has objects of its own: `publications`, which are everyone's,
    `holdings`, what versions take, and `checks`, what canaries found in them.

    A `Session` record proves that its owner was checked: `session` and `sessions` are the only ways
    to one, and everything else is reached through one. What a method has returned from survives a
    `kill -9` and a power cut. Any method may raise StorageError (the disk refused; nothing changed)
    or BusyError (another process keeps the database locked), and NotFoundError when what its record
    stands for was deleted meanwhile.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        root: Path,
        lock: FolderLock | None,
        learning: bool = True,
    ) -> None:
        self._database = database
        self._clock = clock
        self._root = root
        self._lock = lock
        self._learning = learning
        self.holdings = HoldingTable(database)
        self.checks = CheckTable(database, clock=clock)
        folder = root.parent / PUBLISHED_FOLDER
        self.publications = PublicationTable(database, clock=clock, folder=folder)
        self._sessions = SessionTable(database, clock=clock)
        self._messages = MessageTable(database, clock=clock)
        self._readings = ReadingTable(database, clock=clock, root=root)
        self._scores = ScoreTable(database)
        self._versions = VersionTable(database, clock=clock, root=root)

    @staticmethod
    def open(data_dir: Path, *, exclusive: bool = True, learning: bool = True) -> "Store":
        """Open the store in `data_dir`, made when missing (mode 0700); upgrade its tables.

        With `exclusive` (a server) it locks the folder and repairs what a dead process left:
        answers without an end are `cancelled`, readings under way are queued again, files without
        a row are removed. Without it, it may be open beside a server and repairs nothing.
        Without `learning` every session shows as frozen, whatever was chosen for it, and can't be
        unfrozen; with it the choice shows again.

        Raises ConflictError (`data_dir_in_use`, naming the process), or StorageError with the
        code `database_newer`, `database_damaged`, `database_missing`, `storage_full` or
        `storage_failed`.
        """
        database, clock, root, lock = open_parts(data_dir, exclusive=exclusive)
        store = Store(database, clock=clock, root=root, lock=lock, learning=learning)
        try:
            if exclusive:
                store.publications.sweep()
        except BaseException:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Finish the write under way, close the database, let the folder go. Twice is harmless."""
        self._database.close()
        if self._lock is not None:
            self._lock.release()

    # Sessions

    def create_session(
        self, *, owner: str, title: str, model: str, checkpoint: str, learning: Learning
    ) -> Session:
        """Begin a session on the base version. Raises InputError for text that is not Unicode."""
        session = self._sessions.create(
            owner=owner, title=title, model=model, checkpoint=checkpoint, learning=learning
        )
        return self._show(session)

    def session(self, id: str, *, owner: str) -> Session:
        """Return the session. Raises NotFoundError when there is none or it is another owner's."""
        return self._show(self._sessions.find(id, owner=owner))

    def sessions(
        self, *, owner: str, limit: int = 100, before: float | None = None
    ) -> list[Session]:
        """List the owner's sessions, last updated first; `before` is an `updated_at` to go on from.

        No two sessions have the same `updated_at`, so pages neither repeat nor skip one.
        """
        found = self._sessions.list_all(owner=owner, limit=limit, before=before)
        return [self._show(session) for session in found]

    def update_session(
        self,
        session: Session,
        *,
        title: str | None = None,
        learning: Learning | None = None,
        version: int | None = None,
    ) -> Session:
        """Change what is not None.

        Raises NotFoundError when there is no such version, and ConflictError `learning_off` for
        learning where this store was opened without.
        """
        if learning == "on" and not self._learning:
            raise ConflictError(
                "this server doesn't learn; its setting learning is off", code="learning_off"
            )
        changed = self._sessions.update(session, title=title, learning=learning, version=version)
        return self._show(changed)

    def create_branch(
        self,
        session: Session,
        *,
        title: str,
        version: Version | None,
        data: bytes,
        messages: Sequence[StoredMessage],
    ) -> Session:
        """Begin a session of the same owner with a copy of `version`, whose file holds `data`.

        None is the base. `messages` are copied to its beginning; the passages beside them are not.
        """
        branch = create_branch(
            session,
            database=self._database,
            clock=self._clock,
            root=self._root,
            title=title,
            version=version,
            data=data,
            messages=messages,
        )
        return self._show(branch)

    def delete_session(self, session: Session) -> None:
        """Delete all rows of the session, then its files. Works on a full disk."""
        self._sessions.delete(session)
        SessionFolder(self._root, session.id).remove()

    # Messages

    def append_message(
        self,
        session: Session,
        *,
        role: Role,
        content: str,
        version: int,
        finish: FinishReason | None = None,
    ) -> StoredMessage:
        """Add one message at the end. Raises InputError for text that is not Unicode."""
        return self._messages.append(
            session, role=role, content=content, version=version, finish=finish
        )

    def append_turn(
        self,
        session: Session,
        *,
        messages: Sequence[Message],
        parent: str | None | Unset,
        version: int,
        passages: Sequence[PassageNote] = (),
    ) -> tuple[list[StoredMessage], StoredMessage]:
        """Add new messages and an empty answer to them, all or nothing; returns both.

        `parent` is the id of the last message the writer has seen, None where it saw none, UNSET
        where it does not care. Raises ConflictError `session_changed` when another one is the last.
        `passages` are kept with the answer.
        """
        return self._messages.append_turn(
            session, messages=messages, parent=parent, version=version, passages=passages
        )

    def update_message(
        self,
        message: StoredMessage,
        *,
        content: str,
        finish: FinishReason | None = None,
        version: int | None = None,
        guard: GuardNote | None = None,
    ) -> StoredMessage:
        """Replace the content, and `finish`, `version` and `guard` where they are not None."""
        return self._messages.update(
            message, content=content, finish=finish, version=version, guard=guard
        )

    def messages(self, session: Session) -> list[StoredMessage]:
        """List the messages in order."""
        return self._messages.list_all(session)

    # Readings

    def create_reading(
        self, session: Session, *, kind: ReadingKind, name: str, text: str
    ) -> Reading:
        """Queue a text to be read. Raises InputError for text that is not Unicode."""
        return self._readings.create(session, kind=kind, name=name, text=text)

    def reading(self, session: Session, id: str) -> Reading:
        """Return the reading of this session with this id. Raises NotFoundError."""
        return self._readings.find(session, id)

    def readings(self, session: Session) -> list[Reading]:
        """List the session's readings, oldest first."""
        return self._readings.list_all(session)

    def reading_text(self, reading: Reading) -> str:
        """Return the text, exactly as it was given. Raises NotFoundError when it was removed."""
        return self._readings.text(reading)

    def has_reading_text(self, reading: Reading) -> bool:
        """Tell whether the text is still there."""
        return self._readings.has_text(reading)

    def remove_reading_text(self, reading: Reading) -> None:
        """Remove the text for good; the row stays. A second call does nothing."""
        self._readings.remove_text(reading)

    def update_reading(
        self,
        reading: Reading,
        *,
        status: ReadingStatus | None = None,
        tokens_total: int | None = None,
        tokens_read: int | None = None,
        error: str | None = None,
    ) -> Reading:
        """Change what is not None."""
        return self._readings.update(
            reading, status=status, tokens_total=tokens_total, tokens_read=tokens_read, error=error
        )

    def unfinished_readings(self, *, model: str) -> list[tuple[Session, Reading]]:
        """List what is queued or under way for this model, oldest first, over all owners."""
        found = self._readings.list_unfinished(model=model)
        return [(self._show(session), reading) for session, reading in found]

    # Scores

    def append_score(self, score: ChunkScore) -> int:
        """Add one score; returns its index: from 1, growing, never used again in the session."""
        return self._scores.append(score)

    def scores(self, session: Session, *, after: int = 0) -> list[tuple[int, ChunkScore]]:
        """List the scores with an index greater than `after`, in the order they were added."""
        return self._scores.list_all(session, after=after)

    def truncate_scores(self, reading: Reading, *, start: int) -> None:
        """Drop the reading's scores that begin at token `start` or later."""
        self._scores.truncate(reading, start=start)

    # Versions

    def next_version(self, session: Session) -> int:
        """Reserve a version number, from 1; the session never used it before, nor will again."""
        return self._versions.next_number(session)

    def add_version(
        self,
        version: Version,
        *,
        reading: Reading | None,
        tokens_read: int,
        status: ReadingStatus | None,
    ) -> Session:
        """Put a version in force and note how far its reading came, all or nothing.

        Its file must be in place (`version_path`). Without a reading, `tokens_read` and `status`
        say nothing. Raises ConflictError when the number is taken, InputError for a number under 1.
        """
        session = self._versions.add(
            version, reading=reading, tokens_read=tokens_read, status=status
        )
        return self._show(session)

    def versions(self, session: Session) -> list[Version]:
        """List the versions, oldest first; the base is not among them."""
        return self._versions.list_all(session)

    def version(self, session: Session, number: int) -> Version:
        """Return the version with this number. Raises NotFoundError, also for the base."""
        return self._versions.find(session, number)

    def pin_version(self, session: Session, number: int, *, pinned: bool) -> Version:
        """Keep a version from quota and expiry, or no longer. Raises NotFoundError."""
        return self._versions.pin(session, number, pinned=pinned)

    def delete_version(self, session: Session, number: int, *, spare_pinned: bool = False) -> None:
        """Delete one version, row and file.

        Raises ConflictError when it is in force, and with `spare_pinned` when it is pinned.
        """
        self._versions.delete(session, number, spare_pinned=spare_pinned)

    def forget(self, session: Session) -> Session:
        """Delete all versions and scores; the base is in force. Works on a full disk."""
        return self._show(self._versions.forget(session))

    def version_path(self, session: Session, number: int) -> Path:
        """Return where the version's tensors belong: write them there, then `add_version`."""
        return self._versions.path(session, number)

    def _show(self, session: Session) -> Session:
        return session if self._learning else replace(session, learning="frozen")
