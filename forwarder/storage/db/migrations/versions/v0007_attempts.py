"""Store the request of background responses, so that another worker can repeat them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the columns. Older versions leave them empty, and their jobs are not repeated."""
    op.add_column("responses", sa.Column("request", sa.Text(), nullable=True))
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("responses", sa.Column("attempt", number, nullable=True))
