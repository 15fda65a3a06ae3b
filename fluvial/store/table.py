"""The tables as they are now. A change here needs a migration in `migrations/versions`.

A column has the name of the field of its record in `fluvial.types`, or that as its key, so that a
row is a record.
Columns that no record has: `version_count` and `score_count` (numbers given out so far, so that
none is given twice) and the `number` of a reading (its place in the queue over all sessions).
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

from fluvial.store.note import GuardRecord, Names, PassageNotes, VersionNotes, VersionRecord

UNFINISHED_MESSAGE = text("role = 'assistant' AND finish IS NULL")
"""Literal, since SQLite uses a partial index only where the query repeats its condition."""

R = TypeVar("R")

metadata = MetaData()

session = Table(
    "session",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("checkpoint", Text, nullable=False),
    Column("learning", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("updated_at", Float, nullable=False),
    Column("version_count", Integer, nullable=False, server_default="0"),
    Column("score_count", Integer, nullable=False, server_default="0"),
    Index("session_by_owner", "owner", "updated_at"),
)


def _session_key(*, primary_key: bool = False) -> Column[str]:
    """Reference the session a row belongs to, and goes away with."""
    reference = ForeignKey("session.id", ondelete="CASCADE")
    return Column("session", Text, reference, primary_key=primary_key, nullable=False)


message = Table(
    "message",
    metadata,
    Column("id", Text, primary_key=True),
    _session_key(),
    Column("position", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("finish", Text),
    Column("passages", PassageNotes, nullable=False, server_default="[]"),
    Column("guard", GuardRecord),
    Index("message_by_position", "session", "position", unique=True),
    Index("message_unfinished", "session", sqlite_where=UNFINISHED_MESSAGE),
)

reading = Table(
    "reading",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    _session_key(),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("tokens_total", Integer),
    Column("tokens_read", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("error", Text),
    Index("reading_by_session", "session", "number"),
    Index("reading_by_status", "status", "number"),
    sqlite_autoincrement=True,
)

score = Table(
    "score",
    metadata,
    _session_key(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("reading", Text, ForeignKey("reading.id", ondelete="CASCADE"), nullable=False),
    Column("start", Integer, nullable=False),
    Column("tokens", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("frozen_nats", Float, nullable=False),
    Column("adapted_nats", Float, nullable=False),
    Column("version", Integer, nullable=False),
    Column("learned", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("seconds", Float),
    Index("score_by_reading", "reading", "start"),
)

version = Table(
    "version",
    metadata,
    _session_key(primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("parent", Integer, nullable=False),
    Column("reading", Text, ForeignKey("reading.id", ondelete="SET NULL")),
    Column("tokens_learned", Integer, nullable=False),
    Column("updates", Integer, nullable=False),
    Column("drift", Float),
    Column("bytes", Integer, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("id", Text, nullable=False),
    Column("parents", Names, nullable=False),
    Column("origin", Text, nullable=False),
    Column("text_sha256", Text, nullable=False),
    Column("skipped", Integer, nullable=False),
    Column("score_before_bpb", Float),
    Column("frozen_bpb", Float),
    Column("scale", Float, nullable=False),
    Column("note", VersionNotes, key="notes", nullable=False),
    Column("rule", Text, nullable=False),
    Column("pinned", Boolean, nullable=False),
    Column("expires_at", Float),
    Index("version_by_reading", "reading"),
    Index("version_by_expiry", "expires_at"),
)

canary_check = Table(
    "canary_check",
    metadata,
    Column("session", Text, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("canaries", Text, nullable=False),
    Column("checked_at", Float, nullable=False),
    ForeignKeyConstraint(
        ["session", "number"], ["version.session", "version.number"], ondelete="CASCADE"
    ),
)

publication = Table(
    "publication",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("owner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("checkpoint", Text, nullable=False),
    Column("version", VersionRecord, nullable=False),
    Column("created_at", Float, nullable=False),
)

schema_info = Table(
    "schema_info",
    metadata,
    Column("fluvial_version", Text, nullable=False),
    Column("migrated_at", Float, nullable=False),
)
"""One row: the Fluvial that last migrated this database. Older ones read it: never change it."""


def select_columns(table: Table, record: type[Any]) -> list[ColumnElement[Any]]:
    """List the columns of `table` that make one `record`, a dataclass of `fluvial.types`."""
    return [table.c[field.name] for field in fields(record)]


def make_record(row: Sequence[Any], record: type[R]) -> R:
    """Make a `record` of a row that holds the columns of `select_columns`, in their order."""
    names = [field.name for field in fields(cast(Any, record))]
    return record(**dict(zip(names, row, strict=True)))
