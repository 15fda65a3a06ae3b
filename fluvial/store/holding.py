"""What versions take on the disk, over all sessions of an owner: for quota and expiry."""

from typing import Any, final

from sqlalchemy import ColumnElement, func, select

from fluvial.store import table
from fluvial.store.database import Database
from fluvial.types import Holding


@final
class HoldingTable:
    """Versions with what speaks for keeping them. Nothing is changed here."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list_owned(self, *, owner: str) -> list[Holding]:
        """List all versions of an owner, oldest first."""
        return self._list(table.session.c.owner == owner)

    def list_expired(self, *, now: float) -> list[Holding]:
        """List what has passed its time and nothing keeps, over all owners, oldest first."""
        v, s = table.version.c, table.session.c
        return self._list(v.expires_at <= now, v.pinned.is_(False), v.number != s.version)

    def count_bytes(self, *, session: str) -> int:
        """Return what the versions of one session take."""
        v = table.version.c
        query = select(func.coalesce(func.sum(v.bytes), 0)).where(v.session == session)
        with self._database.read() as connection:
            return connection.execute(query).scalar_one()

    def _list(self, *conditions: ColumnElement[Any]) -> list[Holding]:
        v, s = table.version.c, table.session.c
        newest = table.version.alias("newest")
        in_force = (newest.c.session == s.id) & (newest.c.number == s.version)
        columns = {
            "session": s.id,
            "owner": s.owner,
            "number": v.number,
            "bytes": v.bytes,
            "created_at": v.created_at,
            "pinned": v.pinned,
            "in_force": v.number == s.version,
            "is_parent": func.coalesce(v.number == newest.c.parent, False),
        }
        query = (
            select(*columns.values())
            .join_from(table.version, table.session, v.session == s.id)
            .outerjoin(newest, in_force)
            .where(*conditions)
            .order_by(v.created_at, s.id, v.number)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [Holding(**dict(zip(columns, row, strict=True))) for row in rows]
