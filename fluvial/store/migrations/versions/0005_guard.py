"""What the guard did to an answer. It did nothing to older ones."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message", sa.Column("guard", sa.Text(), nullable=True))
