"""Which versions were checked by canaries, and what became of them; over all sessions."""

from dataclasses import replace
from typing import Literal, final

from sqlalchemy import Connection, and_, insert, or_, select, update

from fluvial.store import table
from fluvial.store.clock import Clock
from fluvial.store.database import Database
from fluvial.store.session import touch
from fluvial.types import BASE_VERSION, Session, Version
from fluvial.version_note import CanaryFailed

Outcome = Literal["passed", "failed"]


@final
class CheckTable:
    """The checks of versions. Unlike the rest of the store, it looks into all owners' sessions."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def find_waiting(self, *, checkpoint: str, since: float) -> list[tuple[Session, Version]]:
        """Return versions that were not checked yet: those in force first, then the oldest.

        Of those that are not in force, only what was made at `since` or later; a few at a time.
        """
        s, v, k = table.session.c, table.version.c, table.canary_check.c
        columns = [
            *table.select_columns(table.session, Session),
            *table.select_columns(table.version, Version),
        ]
        in_force = s.version == v.number
        query = (
            select(*columns)
            .join_from(table.version, table.session, v.session == s.id)
            .outerjoin(table.canary_check, and_(k.session == v.session, k.number == v.number))
            .where(k.session.is_(None), s.checkpoint == checkpoint)
            .where(or_(in_force, v.created_at >= since))
            .order_by(in_force.desc(), v.created_at)
            .limit(32)
        )
        width = len(table.select_columns(table.session, Session))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            (
                table.make_record(row[:width], Session),
                table.make_record(row[width:], Version),
            )
            for row in rows
        ]

    def outcome(self, session: Session, number: int) -> Outcome | None:
        """Tell what came of a version's check; None before it, or where there is none."""
        with self._database.read() as connection:
            return _find(connection, session.id, number)

    def note_passed(self, session: Session, version: Version, *, canaries: str) -> None:
        """Keep that a version passed; `canaries` names what it was asked. A second time is fine."""
        with self._database.write() as connection:
            self._note(connection, version, "passed", canaries=canaries)

    def note_failed(
        self, session: Session, version: Version, *, counted: int, failed: int, canaries: str
    ) -> tuple[Session, Version]:
        """Keep that a version failed; where it is in force, go back to the one before, frozen.

        All in one transaction: no crash leaves a version in force that is known to have failed.
        The one before is the nearest of its parents that did not fail itself. Returns the session
        and the version as they are now. Raises NotFoundError for a session that was deleted.
        """
        v = table.version.c
        this = and_(v.session == version.session, v.number == version.number)
        with self._database.write() as connection:
            current = touch(connection, session.id, owner=session.owner, at=self._clock.now())
            self._note(connection, version, "failed", canaries=canaries)
            is_in_force = current.version == version.number
            back = _find_before(connection, version) if is_in_force else None
            note = CanaryFailed(failed=failed, counted=counted, back_to=back)
            notes = connection.execute(select(v.notes).where(this)).scalar_one_or_none() or ()
            connection.execute(update(table.version).where(this).values(notes=(*notes, note)))
            if back is not None:
                current = touch(
                    connection,
                    session.id,
                    owner=session.owner,
                    at=self._clock.now(),
                    version=back,
                    learning="frozen",
                )
        return current, replace(version, notes=(*notes, note))

    def _note(
        self, connection: Connection, version: Version, outcome: Outcome, *, canaries: str
    ) -> None:
        v = table.version.c
        there = select(v.number).where(v.session == version.session, v.number == version.number)
        if connection.execute(there).first() is None:  # it was deleted while it was checked
            return
        if _find(connection, version.session, version.number) is None:
            connection.execute(
                insert(table.canary_check).values(
                    session=version.session,
                    number=version.number,
                    outcome=outcome,
                    canaries=canaries,
                    checked_at=self._clock.now(),
                )
            )


def _find(connection: Connection, session: str, number: int) -> Outcome | None:
    k = table.canary_check.c
    query = select(k.outcome).where(k.session == session, k.number == number)
    return connection.execute(query).scalar_one_or_none()


def _find_before(connection: Connection, version: Version) -> int:
    """Return the nearest version before this one that is there and did not fail; or the base."""
    v = table.version.c
    number = version.parent
    for _ in range(version.number):
        query = select(v.parent).where(v.session == version.session, v.number == number)
        parent = connection.execute(query).scalar_one_or_none()
        if number == BASE_VERSION or parent is None:
            return BASE_VERSION
        if _find(connection, version.session, number) != "failed":
            return number
        number = parent
    return BASE_VERSION
