"""Scores: the evidence of what reading did, chunk by chunk, in the order it was read."""

import math
from typing import final

from sqlalchemy import delete, insert, select, update

from fluvial.errors import InputError
from fluvial.store import table
from fluvial.store.database import Database
from fluvial.store.session import missing
from fluvial.types import ChunkScore, Reading, Session

_COLUMNS = table.select_columns(table.score, ChunkScore)


@final
class ScoreTable:
    """The scores in the database. Their numbers start at 1, grow, and are never used again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, score: ChunkScore) -> int:
        if not (math.isfinite(score.frozen_nats) and math.isfinite(score.adapted_nats)):
            raise InputError("a score must be finite", param="score")
        s = table.session.c
        count = (
            update(table.session).where(s.id == score.session).values(score_count=s.score_count + 1)
        )
        with self._database.write() as connection:
            number = connection.execute(count.returning(s.score_count)).scalar_one_or_none()
            if number is None:
                raise missing(score.session)
            connection.execute(insert(table.score).values(number=number, **vars(score)))
        return number

    def list_all(self, session: Session, *, after: int) -> list[tuple[int, ChunkScore]]:
        c = table.score.c
        after = min(max(after, 0), 2**63 - 1)
        query = select(c.number, *_COLUMNS).where(c.session == session.id, c.number > after)
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(c.number)).all()
        return [(row[0], table.make_record(row[1:], ChunkScore)) for row in rows]

    def truncate(self, reading: Reading, *, start: int) -> None:
        c = table.score.c
        change = delete(table.score).where(c.reading == reading.id, c.start >= start)
        with self._database.write(frees=True) as connection:
            connection.execute(change.where(c.session == reading.session))
