"""The versions of each session's adapter: saved, in force, restored, copied, deleted."""

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol

from fluvial.adapt.cache import AdapterCache, make_key
from fluvial.adapt.keeping import Keeper, Limits, OnDiscard
from fluvial.adapt.naming import name_version
from fluvial.errors import ConflictError, ModelError, NotFoundError
from fluvial.model.adapter import Adaptable, Adapter, Tensors
from fluvial.model.adapter_file import decode, encode, hash_bytes
from fluvial.model.basis import Bases
from fluvial.store.file import write_atomically
from fluvial.store.store import Store
from fluvial.types import (
    BASE_VERSION,
    Holding,
    Publication,
    Reading,
    ReadingStatus,
    Session,
    StoredMessage,
    Version,
    VersionOrigin,
)
from fluvial.version_note import Adopted, VersionNote

LEAST_KEPT = 8
NO_LIMITS = Limits(session_bytes=2**63, owner_bytes=2**63)


class OnDrop(Protocol):
    """Told the keys of versions that were deleted, and their owner, so that caches let go."""

    def __call__(self, keys: Collection[str], *, owner: str) -> None: ...


class History:
    """Versions over the store: rows there, tensors in files beside it. Thread-safe."""

    def __init__(
        self,
        store: Store,
        *,
        declaration: Adaptable,
        checkpoint: str,
        kept: int = LEAST_KEPT,
        limits: Limits = NO_LIMITS,
        on_drop: OnDrop | None = None,
        bases: Bases | None = None,
        on_discard: OnDiscard | None = None,
    ) -> None:
        """Keep the tensors of the `kept` versions last used in memory, 1 or more.

        Every token of an answer asks for its version: `kept` under the number of answers that are
        written at once has files read for each of them. `on_drop` is told of what is deleted.
        `bases` are those that versions may stand on. `on_discard` is told of each version that
        goes by quota or expiry, after it has.
        """
        self._store = store
        self._declaration = declaration
        self._checkpoint = checkpoint
        self._bases = bases
        self._cache = AdapterCache(kept=kept)
        self._keeper = Keeper(store, limits=limits, release=self.release, on_discard=on_discard)
        self._on_drop = on_drop

    # Reading

    def adapter(self, session: Session) -> Adapter | None:
        """Return the adapter in force, None for the base. Raises ModelError if it is damaged."""
        return self.load(session, session.version)

    def load(self, session: Session, number: int) -> Adapter | None:
        """Return the adapter of one version, None for the base.

        Raises NotFoundError, and ModelError if its file is damaged.
        """
        if number == BASE_VERSION:
            return None
        key = make_key(session, number)
        found = self._cache.find(key)
        if found is None:
            version = self._store.version(session, number)
            tensors = self.decode(self.read(session, version))
            found = self._cache.keep(Adapter(key, tensors))
            self._require_kept(session, number)
        return found

    def read(self, session: Session, version: Version) -> bytes:
        """Return the bytes of a version's file. Raises ModelError if they are not those saved."""
        path = self._store.version_path(session, version.number)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ModelError(f"the saved version {version.number} can't be read: {error}") from None
        return _check(data, version)

    def decode(self, data: bytes) -> Tensors:
        """Read an adapter's file and hold it against the model. Raises ModelError."""
        return decode(
            data,
            declaration=self._declaration,
            checkpoint=self._checkpoint,
            bases=self._bases,
        )

    def _encode(self, tensors: Tensors) -> bytes:
        basis = None
        if self._bases is not None:
            basis = self._bases.match(tensors, checkpoint=self._checkpoint)
        return encode(
            tensors, checkpoint=self._checkpoint, declaration=self._declaration, basis=basis
        )

    def open_publication(self, session: Session, publication: Publication) -> Tensors:
        """Return the tensors of a published version, for a session of the same base.

        Raises ConflictError `other_base`, ModelError if the file is damaged.
        """
        return self.decode(self._read_publication(session, publication))

    # Adding

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
        skipped: int = 0,
        text_sha256: str = "",
        score_before_bpb: float | None = None,
        frozen_bpb: float | None = None,
        scale: float = 1.0,
        notes: Sequence[VersionNote] = (),
        rule: str = "",
    ) -> tuple[Session, Version]:
        """Make `tensors` the session's next version and put it in force: file first, then its row.

        The reading's progress is saved in the same transaction. `rule` is canonical JSON (see
        `naming`). Raises StorageError or ConflictError `quota_reached`; nothing has changed then.
        """
        draft = Version(
            session=session.id,
            number=0,
            parent=0,
            reading=reading.id,
            tokens_learned=tokens_learned,
            updates=updates,
            drift=drift,
            bytes=0,
            sha256="",
            created_at=0.0,
            parents=self._parents(session),
            skipped=skipped,
            text_sha256=text_sha256,
            score_before_bpb=score_before_bpb,
            frozen_bpb=frozen_bpb,
            scale=scale,
            notes=tuple(notes),
            rule=rule,
        )
        data = self._encode(tensors)
        return self._put(
            session, draft, data, reading=reading, tokens_read=tokens_read, status=status
        )

    def add(
        self,
        session: Session,
        tensors: Tensors,
        *,
        origin: VersionOrigin,
        parents: Sequence[str],
        rule: str,
        drift: float | None,
        scale: float = 1.0,
        notes: Sequence[VersionNote] = (),
    ) -> tuple[Session, Version]:
        """Put tensors from elsewhere in force as a new version. Raises as `save` does.

        Raises ModelError, too, when they do not fit the model or are not finite.
        """
        data = self._encode(tensors)
        self.decode(data)
        draft = Version(
            session=session.id,
            number=0,
            parent=0,
            reading=None,
            tokens_learned=0,
            updates=0,
            drift=drift,
            bytes=0,
            sha256="",
            created_at=0.0,
            parents=tuple(parents),
            origin=origin,
            scale=scale,
            notes=tuple(notes),
            rule=rule,
        )
        return self._put(session, draft, data)

    def adopt(self, session: Session, publication: Publication) -> tuple[Session, Version]:
        """Put a copy of a published version in force. Raises as `save` does.

        Raises ConflictError `other_base` when it belongs to other weights than the session's.
        """
        data = self._read_publication(session, publication)
        self.decode(data)
        version = publication.version
        notes = (Adopted(name=publication.name), *version.notes)
        return self._put(session, replace(version, origin="adopt", notes=notes), data)

    def branch(
        self,
        session: Session,
        number: int,
        *,
        title: str,
        messages: Sequence[StoredMessage] = (),
    ) -> Session:
        """Begin a session that has a copy of version `number` (0: the base) in force."""
        version, data = None, b""
        if number != BASE_VERSION:
            version = self._store.version(session, number)
            data = self.read(session, version)
            expires_at = self._keeper.limits.expires_at(time.time())
            version = replace(version, pinned=False, expires_at=expires_at)
            self._keeper.require_room(owner=session.owner, session=None, size_bytes=len(data))
        branch = self._store.create_branch(
            session, title=title, version=version, data=data, messages=messages
        )
        self._keeper.make_room(branch)
        return branch

    # Changing what is in force

    def restore(self, session: Session, number: int) -> Session:
        """Put version `number` (0: the base) in force. Raises NotFoundError if there is none."""
        return self._store.update_session(session, version=number)

    # Deleting

    def delete(self, session: Session, number: int) -> None:
        """Delete one version for good, in caches too. Raises ConflictError when it is in force."""
        self._store.delete_version(session, number)
        self.release(session, [number])

    def forget(self, session: Session) -> Session:
        """Delete every version and score for good; the base is in force."""
        numbers = [version.number for version in self._store.versions(session)]
        session = self._store.forget(session)
        self.release(session, numbers)
        return session

    def release(self, session: Session, numbers: Sequence[int]) -> None:
        """Have all caches let go of versions whose rows are deleted."""
        keys = [make_key(session, number) for number in numbers]
        self._cache.drop(keys)
        if keys and self._on_drop is not None:
            self._on_drop(keys, owner=session.owner)

    def expire(self, *, now: float) -> list[Holding]:
        """Delete what has passed its time, over all owners; returns it."""
        return self._keeper.expire(now=now)

    # Below

    def _put(
        self,
        session: Session,
        draft: Version,
        data: bytes,
        *,
        reading: Reading | None = None,
        tokens_read: int = 0,
        status: ReadingStatus | None = None,
    ) -> tuple[Session, Version]:
        """Make a version of `draft`, which tells where it comes from, and put it in force."""
        self._keeper.require_room(owner=session.owner, session=session, size_bytes=len(data))
        now, sha256 = time.time(), hash_bytes(data)
        version = replace(
            draft,
            session=session.id,
            number=self._store.next_version(session),
            parent=session.version,
            bytes=len(data),
            sha256=sha256,
            created_at=now,
            id=name_version(checkpoint=self._checkpoint, rule=draft.rule, sha256=sha256),
            pinned=False,
            expires_at=self._keeper.limits.expires_at(now),
        )
        write_atomically(self._store.version_path(session, version.number), data)
        session = self._store.add_version(
            version, reading=reading, tokens_read=tokens_read, status=status
        )
        self._keeper.make_room(session)
        return session, version

    def _require_kept(self, session: Session, number: int) -> None:
        """Let go of a version that was deleted while it was read. Raises NotFoundError then."""
        try:
            self._store.version(session, number)
        except NotFoundError:
            self._cache.drop([make_key(session, number)])
            raise

    def _read_publication(self, session: Session, publication: Publication) -> bytes:
        if publication.checkpoint != session.checkpoint:
            raise ConflictError(
                f"{publication.name!r} was learned on {publication.model}, and this session is one "
                f"of {session.model}; adapters only fit the exact weights they grew on",
                code="other_base",
            )
        return _check(self._store.publications.read(publication), publication.version)

    def _parents(self, session: Session) -> tuple[str, ...]:
        if session.version == BASE_VERSION:
            return ()
        return (self._store.version(session, session.version).id,)


def _check(data: bytes, version: Version) -> bytes:
    if hash_bytes(data) != version.sha256:
        raise ModelError(
            f"the saved version {version.id[:12]} is damaged (its checksum differs); "
            "restore another"
        )
    return data
