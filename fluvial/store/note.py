"""Columns of records: JSON text in the database, records in Python."""

import json
from dataclasses import asdict
from typing import Any, final

from sqlalchemy import Dialect, Text
from sqlalchemy.types import TypeDecorator

from fluvial.note import decode, encode
from fluvial.types import GuardNote, PassageNote, Version
from fluvial.version_note import VersionNote


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


@final
class GuardRecord(TypeDecorator[GuardNote]):
    """Keeps what the guard did as a JSON object."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: GuardNote | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(asdict(value))

    def process_result_value(self, value: str | None, dialect: Dialect) -> GuardNote | None:
        return None if value is None else GuardNote(**json.loads(value))


@final
class Names(TypeDecorator[tuple[str, ...]]):
    """Keeps a tuple of texts as a JSON list."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> tuple[str, ...] | None:
        return None if value is None else tuple(json.loads(value))


@final
class VersionNotes(TypeDecorator[tuple[VersionNote, ...]]):
    """Keeps notes on a version as `fluvial.note.encode` makes them."""

    impl = Text
    cache_ok = True

    def process_bind_param(
        self, value: tuple[VersionNote, ...] | None, dialect: Dialect
    ) -> str | None:
        return None if value is None else encode(value)

    def process_result_value(
        self, value: str | None, dialect: Dialect
    ) -> tuple[VersionNote, ...] | None:
        return None if value is None else decode(value)


@final
class VersionRecord(TypeDecorator[Version]):
    """Keeps a version as a JSON object; fields that are missing have their defaults."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Version | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        fields = asdict(value) | {"note": encode(value.notes)}
        del fields["notes"]
        return json.dumps(fields)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Version | None:
        if value is None:
            return None
        fields: dict[str, Any] = json.loads(value)
        fields["parents"] = tuple(fields["parents"])
        fields["notes"] = decode(fields.pop("note", ""))
        return Version(**fields)
