"""The versions of each session's adapter: saved, in force, restored, forgotten."""

import threading
import time
from collections import OrderedDict
from pathlib import Path

from fluvial.model.adapter import Adaptable, Adapter, Tensors, encode, hash_bytes, load
from fluvial.store.file import write_atomically
from fluvial.store.store import Store
from fluvial.types import BASE_VERSION, Reading, ReadingStatus, Session, Version

LEAST_KEPT = 8


class History:
    """Versions over the store: rows there, tensors in files beside it. Thread-safe."""

    def __init__(
        self, store: Store, *, declaration: Adaptable, checkpoint: str, kept: int = LEAST_KEPT
    ) -> None:
        """Keep the tensors of the `kept` versions last used in memory, 1 or more.

        Every token of an answer asks for its version: `kept` under the number of answers that are
        written at once has files read for each of them.
        """
        self._store = store
        self._kept = kept
        self._declaration = declaration
        self._checkpoint = checkpoint
        self._cache: OrderedDict[str, Adapter] = OrderedDict()
        self._lock = threading.Lock()

    def adapter(self, session: Session) -> Adapter | None:
        """Return the adapter in force, None for the base. Raises ModelError if it is damaged."""
        if session.version == BASE_VERSION:
            return None
        key = f"{session.id}/{session.version}"
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        version = self._store.version(session, session.version)
        return self._keep(
            load(
                self._store.version_path(session, version.number),
                key=key,
                declaration=self._declaration,
                checkpoint=self._checkpoint,
                sha256=version.sha256,
            )
        )

    def save(
        self,
        session: Session,
        tensors: Tensors,
        *,
        reading: Reading,
        tokens_read: int,
        status: ReadingStatus,
        tokens_learned: int,
        updates: int,
        drift: float,
    ) -> tuple[Session, Version]:
        """Make `tensors` the session's next version and put it in force: file first, then its row.

        The reading's progress is saved in the same transaction. Raises StorageError; nothing has
        changed then.
        """
        number = self._store.next_version(session)
        data = encode(tensors, checkpoint=self._checkpoint)
        write_atomically(self._store.version_path(session, number), data)
        version = Version(
            session=session.id,
            number=number,
            parent=session.version,
            reading=reading.id,
            tokens_learned=tokens_learned,
            updates=updates,
            drift=drift,
            bytes=len(data),
            sha256=hash_bytes(data),
            created_at=time.time(),
        )
        session = self._store.add_version(
            version, reading=reading, tokens_read=tokens_read, status=status
        )
        self._keep(Adapter(f"{session.id}/{number}", dict(tensors)))
        return session, version

    def restore(self, session: Session, number: int) -> Session:
        """Put version `number` (0: the base) in force. Raises NotFoundError if there is none."""
        if number == BASE_VERSION:
            return self._store.update_session(session, version=BASE_VERSION)
        self._store.version(session, number)
        return self._store.update_session(session, version=number)

    def delete(self, session: Session, number: int) -> None:
        """Delete one version that is not in force; raises ConflictError when it is."""
        self._store.delete_version(session, number)
        with self._lock:
            self._cache.pop(f"{session.id}/{number}", None)

    def forget(self, session: Session) -> Session:
        """Delete every version and score; the base is in force."""
        session = self._store.forget(session)
        with self._lock:
            for key in [key for key in self._cache if key.startswith(f"{session.id}/")]:
                del self._cache[key]
        return session

    def path(self, session: Session, number: int) -> Path:
        """Return the file of one version, for export. Raises NotFoundError."""
        self._store.version(session, number)
        return self._store.version_path(session, number)

    def _keep(self, adapter: Adapter) -> Adapter:
        with self._lock:
            self._cache[adapter.key] = adapter
            while len(self._cache) > self._kept:
                self._cache.popitem(last=False)
        return adapter
