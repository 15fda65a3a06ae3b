"""Sharing by explicit acts: publish a version to everyone here, adopt a published one."""

from fluvial.adapt.history import History
from fluvial.service.model import Served
from fluvial.service.record import Record
from fluvial.service.version import Versions
from fluvial.store import Store
from fluvial.types import Publication, Session, Version


class Publications:
    """Published copies of versions. They never change, and outlive what they were copied from."""

    def __init__(
        self,
        *,
        served: Served,
        store: Store,
        history: History,
        versions: Versions,
        record: Record,
    ) -> None:
        self._served = served
        self._store = store
        self._history = history
        self._versions = versions
        self._record = record

    def list_all(self) -> list[Publication]:
        """List what is published on this server, by whoever, by name."""
        return self._store.publications.list_all()

    def publish(self, session: Session, handle: str, *, name: str) -> Publication:
        """Publish a copy of a version under a name, to everyone on this server.

        Raises InputError for a name that is none, ConflictError `name_taken`, or `canary_failed`
        for a version that failed its canaries.
        """
        version = self._versions.find(session, handle)
        self._versions.require_passable(session, version.number)
        data = self._history.read(session, version)
        made = self._store.publications.create(session, version, name=name, data=data)
        self._record.note_act(
            "version.published", session, version=version.number, id=version.id, name=made.name
        )
        return made

    def withdraw(self, name: str, *, owner: str) -> None:
        """Take a publication back; what was adopted stays with those who did.

        Raises NotFoundError, and ForbiddenError when someone else published it.
        """
        self._store.publications.delete(name, owner=owner)
        self._record.note_by(owner, "version.withdrawn", name)

    def adopt(self, session: Session, name: str) -> Version:
        """Put a copy of a published version in force in a session; readings under way stop.

        Raises NotFoundError, ConflictError `other_base` or `quota_reached`.
        """
        self._served.require(session)
        publication = self._store.publications.find(name)
        self._history.open_publication(session, publication)  # refused before readings stop
        return self._versions.put(session, lambda now: self._history.adopt(now, publication))
