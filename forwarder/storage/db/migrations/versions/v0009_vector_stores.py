"""Create the tables of files and vector stores."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_PENDING = sa.text("status = 'in_progress'")


def upgrade() -> None:
    """Create the tables, and the full-text index of the database."""
    op.create_table(
        "files",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
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
        sa.ForeignKeyConstraint(["owner", "file"], ["files.owner", "files.id"], ondelete="CASCADE"),
    )
    op.create_table(
        "vector_stores",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("used", sa.Double(), nullable=False),
        sa.Column("size", _NUMBER, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=True),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("expires_days", _NUMBER, nullable=True),
        sa.Column("embedding_model", sa.Text(), nullable=True),
        sa.UniqueConstraint("owner", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("vector_stores_by_use", "vector_stores", ["used", "size"])
    create_file_tables()
    create_chunk_table()
    create_full_text_index()


def create_file_tables() -> None:
    op.create_table(
        "vector_store_batches",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("store", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "id"),
        make_store_foreign_key(),
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
        sa.UniqueConstraint("owner", "store", "file"),
        sa.ForeignKeyConstraint(["owner", "file"], ["files.owner", "files.id"], ondelete="CASCADE"),
        make_store_foreign_key(),
        sqlite_autoincrement=True,
    )
    op.create_index("vector_store_files_by_file", "vector_store_files", ["owner", "file"])
    op.create_index(
        "vector_store_files_pending",
        "vector_store_files",
        ["owner", "number"],
        sqlite_where=_PENDING,
        postgresql_where=_PENDING,
    )


def make_store_foreign_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["owner", "store"], ["vector_stores.owner", "vector_stores.id"], ondelete="CASCADE"
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
