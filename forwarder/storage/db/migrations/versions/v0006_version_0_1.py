"""Version 0.1: create the first tables.

Responses with their event logs and items, conversations, chat completions, cached reasoning,
registered models, the list positions of deleted rows, and the recurring jobs.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    create_response_tables()
    create_conversation_tables()
    create_completion_table()
    create_reasoning_table()
    create_model_tables()
    create_tombstone_table()
    create_job_table()


def make_object_columns() -> tuple[sa.Column[Any], ...]:
    """Return the first columns of the tables whose rows are objects of clients."""
    return (
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
    )


def create_response_tables() -> None:
    op.create_table(
        "responses",
        *make_object_columns(),
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
        sa.Column("log", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("responses_by_use", "responses", ["used", "size"])
    # Most responses continue nothing and do not run in the background.
    create_partial_index("responses_by_previous", "responses", ["owner", "previous"])
    create_partial_index("responses_by_lease", "responses", ["lease"])
    op.create_table(
        "events",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("first", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("last", _NUMBER, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "response", "first"),
        make_response_foreign_key(),
    )
    op.create_table(
        "items",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
        make_response_foreign_key(),
        sqlite_with_rowid=False,
    )
    op.create_index("items_by_response", "items", ["owner", "response"])


def create_partial_index(name: str, table: str, columns: list[str]) -> None:
    """Index the rows in which the last of these columns is not null, which are few."""
    condition = sa.text(f"{columns[-1]} IS NOT NULL")
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def make_response_foreign_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["owner", "response"], ["responses.owner", "responses.id"], ondelete="CASCADE"
    )


def create_conversation_tables() -> None:
    op.create_table(
        "conversations",
        *make_object_columns(),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("lease", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("conversations_by_use", "conversations", ["used", "size"])
    op.create_table(
        "conversation_items",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("conversation", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "conversation"],
            ["conversations.owner", "conversations.id"],
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("owner", "conversation", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("conversation_items_by_id", "conversation_items", ["owner", "id"])


def create_completion_table() -> None:
    op.create_table(
        "completions",
        sa.Column("number", _NUMBER, primary_key=True),
        *make_object_columns(),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("messages", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.UniqueConstraint("owner", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("completions_by_use", "completions", ["used", "size"])


def create_reasoning_table() -> None:
    op.create_table(
        "thoughts",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
    )
    op.create_index("thoughts_by_use", "thoughts", ["used", "size"])


def create_model_tables() -> None:
    """Create the table of registered models, and the one that counts changes of cached data."""
    op.create_table(
        "models",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("modified", sa.Double(), nullable=False),
        sa.Column("told", sa.LargeBinary(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "generations",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("number", _NUMBER, nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def create_tombstone_table() -> None:
    op.create_table(
        "gone",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("number", _NUMBER, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "holder", "id"),
    )
    op.create_index("gone_by_time", "gone", ["at"])


def create_job_table() -> None:
    op.create_table(
        "chores",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("due", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
