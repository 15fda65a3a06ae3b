"""What reading each chunk cost, and why it was not learned from. Older scores tell neither."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("score", sa.Column("reason", sa.Text(), server_default="", nullable=False))
    op.add_column("score", sa.Column("seconds", sa.Float(), nullable=True))
