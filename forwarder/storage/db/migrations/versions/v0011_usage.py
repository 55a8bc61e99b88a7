"""Create the table of usage by hour."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COUNTS = (
    "requests", "errors", "cancelled", "estimated", "input_tokens", "cached_tokens",
    "output_tokens", "reasoning_tokens", "first_events", "first_event_ms", "duration_ms",
)  # fmt: skip


def upgrade() -> None:
    """Create the table. Older versions do not count."""
    op.create_table(
        "usage_hours",
        sa.Column("hour", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        *(sa.Column(name, _NUMBER, nullable=False) for name in _COUNTS),
        sa.PrimaryKeyConstraint("hour", "client", "model", "upstream"),
    )
