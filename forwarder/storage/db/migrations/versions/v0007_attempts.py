"""Background work keeps its request, so that another worker can begin it anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns; older code leaves them empty, and its work is not begun anew."""
    op.add_column("responses", sa.Column("request", sa.Text(), nullable=True))
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("responses", sa.Column("attempt", number, nullable=True))
