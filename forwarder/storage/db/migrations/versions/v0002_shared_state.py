"""Share state between workers: cached reasoning, and locks of conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the table and the columns; running workers of the older version ignore them."""
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
