"""What workers share: the reasoning of upstreams, and who has which conversation."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, and the columns; older code that is still running does without them."""
    op.create_table(
        "thoughts",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("thoughts_by_use", "thoughts", ["used", "size"], unique=False)
    op.add_column("conversations", sa.Column("holder", sa.Text(), nullable=True))
    op.add_column("conversations", sa.Column("lease", sa.Double(), nullable=True))
