"""A column of passage notes: JSON text in the database, records in Python."""

import json
from dataclasses import asdict
from typing import final

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from fluvial.types import PassageNote


@final
class PassageNotes(TypeDecorator[tuple[PassageNote, ...]]):
    """Keeps a tuple of notes as a JSON list of objects, in their order."""

    impl = Text
    cache_ok = True

    def process_bind_param(
        self, value: tuple[PassageNote, ...] | None, dialect: Dialect
    ) -> str | None:
        return None if value is None else json.dumps([asdict(note) for note in value])

    def process_result_value(
        self, value: str | None, dialect: Dialect
    ) -> tuple[PassageNote, ...] | None:
        return None if value is None else tuple(PassageNote(**note) for note in json.loads(value))
