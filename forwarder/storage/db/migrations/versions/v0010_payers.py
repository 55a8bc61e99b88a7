"""Store the client that pays for the embedding of files in vector stores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column. Older versions leave it empty, so their files are charged to no client."""
    op.add_column("vector_store_files", sa.Column("payer", sa.Text(), nullable=True))
