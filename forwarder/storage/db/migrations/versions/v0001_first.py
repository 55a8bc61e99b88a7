"""Create the first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "completions",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("messages", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("owner", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("completions_by_use", "completions", ["used", "size"], unique=False)
    op.create_table(
        "conversations",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("conversations_by_use", "conversations", ["used", "size"], unique=False)
    op.create_table(
        "responses",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("previous", sa.Text(), nullable=True),
        sa.Column("conversation", sa.Text(), nullable=True),
        sa.Column("before", _NUMBER, nullable=True),
        sa.Column("upstream", sa.Text(), nullable=True),
        sa.Column("upstream_id", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease", sa.Double(), nullable=True),
        sa.Column("input", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("responses_by_lease", "responses", ["lease"], unique=False)
    op.create_index("responses_by_previous", "responses", ["owner", "previous"], unique=False)
    op.create_index("responses_by_use", "responses", ["used", "size"], unique=False)
    op.create_table(
        "conversation_items",
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"],
            ["conversations.owner", "conversations.id"],
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("owner", "conversation", "id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("first", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("last", _NUMBER, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "response"], ["responses.owner", "responses.id"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner", "response", "first"),
    )
    op.create_table(
        "items",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "response"], ["responses.owner", "responses.id"], ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("items_by_response", "items", ["owner", "response"], unique=False)
