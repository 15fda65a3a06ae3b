"""Runs migrations on the connection, and inside the transaction, that `migration.migrate` gives."""

from alembic import context

from fluvial.store import table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=table.metadata,
    render_as_batch=True,  # SQLite changes a column only by copying its table
)
with context.begin_transaction():
    context.run_migrations()
