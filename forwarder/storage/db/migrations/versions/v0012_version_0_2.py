"""Version 0.2: repeatable background responses, owner keys, vector stores, usage, client keys.

Workers of version 0.1 can run meanwhile: all tables are new, and the new columns may be null.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0006"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add the columns and create the tables."""
    add_response_columns()
    create_owner_key_table()
    create_file_tables()
    create_vector_store_tables()
    create_chunk_table()
    create_full_text_index()
    create_usage_table()
    create_client_key_table()


def add_response_columns() -> None:
    """Store the requests of background responses, so that another worker can repeat them.

    Version 0.1 leaves the columns empty, and its jobs are not repeated.
    """
    op.add_column("responses", sa.Column("request", sa.Text(), nullable=True))
    op.add_column("responses", sa.Column("attempt", _NUMBER, nullable=True))


def create_owner_key_table() -> None:
    """Create the table. Workers that can decrypt the keys move existing data to the new owners."""
    op.create_table(
        "owner_keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )


def make_object_columns() -> tuple[sa.Column[Any], ...]:
    """Return the first columns of the tables whose rows are objects of clients."""
    return (
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
    )


def make_foreign_key(column: str, table: str) -> sa.ForeignKeyConstraint:
    """Return the reference of ``column`` to the id of an object of the same owner."""
    return sa.ForeignKeyConstraint(
        ["owner", column], [f"{table}.owner", f"{table}.id"], ondelete="CASCADE"
    )


def create_file_tables() -> None:
    op.create_table(
        "files",
        sa.Column("number", _NUMBER, primary_key=True),
        *make_object_columns(),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.UniqueConstraint("owner", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("files_by_use", "files", ["used", "size"])
    op.create_table(
        "file_parts",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("number", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "file", "number"),
        make_foreign_key("file", "files"),
    )


def create_vector_store_tables() -> None:
    """Create the tables of vector stores, and of their batches and files."""
    op.create_table(
        "vector_stores",
        sa.Column("number", _NUMBER, primary_key=True),
        *make_object_columns(),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("expires_days", _NUMBER, nullable=True),
        sa.Column("embedding_model", sa.Text(), nullable=True),
        sa.UniqueConstraint("owner", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("vector_stores_by_use", "vector_stores", ["used", "size"])
    op.create_table(
        "vector_store_batches",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
        make_foreign_key("store", "vector_stores"),
    )
    op.create_index("vector_store_batches_by_store", "vector_store_batches", ["owner", "store"])
    op.create_table(
        "vector_store_files",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("attributes", sa.LargeBinary(), nullable=False),
        sa.Column("chunk_tokens", _NUMBER, nullable=False),
        sa.Column("overlap_tokens", _NUMBER, nullable=False),
        sa.Column("batch", sa.Text(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("lease", sa.Double(), nullable=True),
        sa.Column("attempt", _NUMBER, nullable=False),
        sa.Column("payer", sa.Text(), nullable=True),
        sa.UniqueConstraint("owner", "store", "file"),
        make_foreign_key("file", "files"),
        make_foreign_key("store", "vector_stores"),
        sqlite_autoincrement=True,
    )
    op.create_index("vector_store_files_by_file", "vector_store_files", ["owner", "file"])
    pending = sa.text("status = 'in_progress'")
    op.create_index(
        "vector_store_files_pending",
        "vector_store_files",
        ["owner", "number"],
        sqlite_where=pending,
        postgresql_where=pending,
    )


def create_chunk_table() -> None:
    op.create_table(
        "vector_store_chunks",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("bits", sa.LargeBinary(), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["owner", "store", "file"],
            ["vector_store_files.owner", "vector_store_files.store", "vector_store_files.file"],
            ondelete="CASCADE",
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "vector_store_chunks_by_file", "vector_store_chunks", ["owner", "store", "file", "number"]
    )
    op.create_index(
        "vector_store_chunks_by_store",
        "vector_store_chunks",
        ["owner", "store", "number", "file", "bits"],
    )


def create_full_text_index() -> None:
    """Create an FTS5 table in SQLite, or a column with a GIN index in PostgreSQL."""
    if op.get_bind().dialect.name != "sqlite":
        op.execute("ALTER TABLE vector_store_chunks ADD COLUMN words tsvector")
        op.execute(
            "CREATE INDEX vector_store_chunks_by_word ON vector_store_chunks USING gin (words)"
        )
        return
    op.execute(
        "CREATE VIRTUAL TABLE vector_store_words USING fts5("
        "store, words, tokenize = 'porter unicode61')"
    )
    op.execute(
        "CREATE TRIGGER vector_store_words_removal AFTER DELETE ON vector_store_chunks BEGIN "
        "DELETE FROM vector_store_words WHERE rowid = old.number; END"
    )


def create_usage_table() -> None:
    """Create the table of usage by hour. Version 0.1 does not count."""
    counts = (
        "requests", "errors", "cancelled", "estimated", "input_tokens", "cached_tokens",
        "output_tokens", "reasoning_tokens", "first_events", "first_event_ms", "duration_ms",
    )  # fmt: skip
    op.create_table(
        "usage_hours",
        sa.Column("hour", _NUMBER, autoincrement=False, nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("upstream", sa.Text(), nullable=False),
        *(sa.Column(name, _NUMBER, nullable=False) for name in counts),
        sa.PrimaryKeyConstraint("hour", "client", "model", "upstream"),
    )


def create_client_key_table() -> None:
    """Create the table of client keys made at run time.

    Version 0.1 does not know these keys, and refuses or ignores them.
    """
    op.create_table(
        "client_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("previous_digest", sa.Text(), nullable=True),
        sa.Column("previous_until", sa.Double(), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("revoked", sa.Double(), nullable=True),
        sa.Column("last_used", sa.Double(), nullable=True),
        sa.Column("limits", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
