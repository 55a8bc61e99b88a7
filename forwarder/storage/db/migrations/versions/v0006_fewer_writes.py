"""Reduce the writes for each response: partial indexes, and an items table without row ids.

Most responses continue nothing, do not run in the background, and have an event log of one chunk.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make indexes partial; store items without row ids and single-chunk logs with responses."""
    create_partial_index("responses_by_previous", ["owner", "previous"])
    create_partial_index("responses_by_lease", ["lease"])
    op.add_column("responses", sa.Column("log", sa.LargeBinary(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        rebuild_items_without_rowid()


def create_partial_index(name: str, columns: list[str]) -> None:
    condition = sa.text(f"{columns[-1]} IS NOT NULL")
    op.drop_index(name, "responses")
    op.create_index(name, "responses", columns, sqlite_where=condition, postgresql_where=condition)


def rebuild_items_without_rowid() -> None:
    op.rename_table("items", "items_of_before")
    op.drop_index("items_by_response", "items_of_before")
    op.create_table(
        "items",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
        sa.ForeignKeyConstraint(
            ["owner", "response"], ["responses.owner", "responses.id"], ondelete="CASCADE"
        ),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO items SELECT owner, id, response FROM items_of_before")
    op.drop_table("items_of_before")
    op.create_index("items_by_response", "items", ["owner", "response"])
