"""Versions named by content, with what is known of where they come from; published copies.

The table is made anew, because a drift may be unknown now. Older rows get their id and the ids of
their parents. Their drift was another measure, the change in weights: its figure goes to the note.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    connection = op.get_bind()
    _make_version_table("version_0003")
    query = "SELECT version.*, checkpoint FROM version JOIN session ON session.id = version.session"
    old = [dict(row) for row in connection.execute(sa.text(query)).mappings()]
    ids = {(row["session"], row["number"]): _name(row) for row in old}
    columns = [*old[0].keys() - {"checkpoint"}, *_fill(old[0], ids)] if old else []
    for row in old:
        values = {**row, **_fill(row, ids)}
        connection.execute(_insert(columns), {key: values[key] for key in columns})
    op.drop_table("version")
    op.rename_table("version_0003", "version")
    op.create_index("version_by_reading", "version", ["reading"], unique=False)
    op.create_index("version_by_expiry", "version", ["expires_at"], unique=False)
    op.create_table(
        "publication",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )


def _make_version_table(name: str) -> None:
    op.create_table(
        name,
        sa.Column("session", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Integer(), nullable=False),
        sa.Column("reading", sa.Text(), nullable=True),
        sa.Column("tokens_learned", sa.Integer(), nullable=False),
        sa.Column("updates", sa.Integer(), nullable=False),
        sa.Column("drift", sa.Float(), nullable=True),
        sa.Column("bytes", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("parents", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("text_sha256", sa.Text(), nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("score_before_bpb", sa.Float(), nullable=True),
        sa.Column("frozen_bpb", sa.Float(), nullable=True),
        sa.Column("scale", sa.Float(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["reading"], ["reading.id"], ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["session"], ["session.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("session", "number"),
    )


def _insert(columns: list[str]) -> sa.TextClause:
    places = ", ".join(f":{name}" for name in columns)
    return sa.text(f"INSERT INTO version_0003 ({', '.join(columns)}) VALUES ({places})")  # noqa: S608 - names of ours


def _fill(row: Mapping[str, Any], ids: Mapping[tuple[str, int], str]) -> dict[str, Any]:
    parent = ids.get((row["session"], row["parent"]))
    notes = [f"drift was measured as a change in weights then: {row['drift']:.2e}"]
    if parent is None and row["parent"] != 0:
        notes.append("its parent was deleted before parents had names")
    return {
        "drift": None,
        "id": ids[row["session"], row["number"]],
        "parents": json.dumps([parent] if parent else []),
        "origin": "read",
        "text_sha256": "",
        "skipped": 0,
        "score_before_bpb": None,
        "frozen_bpb": None,
        "scale": 1.0,
        "note": "; ".join(notes),
        "rule": "",
        "pinned": False,
        "expires_at": None,
    }


def _name(row: Mapping[str, Any]) -> str:
    content = ["fluvial-version-1", row["checkpoint"], "", row["sha256"]]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
