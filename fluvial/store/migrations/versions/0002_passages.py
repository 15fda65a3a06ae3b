"""Which documents' passages stood beside a question. Older answers tell of none."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message", sa.Column("passages", sa.Text(), server_default="[]", nullable=False))
