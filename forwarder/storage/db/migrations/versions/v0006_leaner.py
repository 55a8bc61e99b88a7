"""Less is written for each response: nothing where there is nothing to find, and one tree less.

Most responses continue nothing and are not made in the background, and most have a log of one
piece.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Index what is there alone; keep items, and a log of one piece, without a detour."""
    _index_what_is_there("responses_by_previous", ["owner", "previous"])
    _index_what_is_there("responses_by_lease", ["lease"])
    op.add_column("responses", sa.Column("log", sa.LargeBinary(), nullable=True))
    if op.get_bind().dialect.name == "sqlite":
        _items_without_rowid()


def _index_what_is_there(name: str, columns: list[str]) -> None:
    there = sa.text(f"{columns[-1]} IS NOT NULL")
    op.drop_index(name, "responses")
    op.create_index(name, "responses", columns, sqlite_where=there, postgresql_where=there)


def _items_without_rowid() -> None:
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
