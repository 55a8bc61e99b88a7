"""The tables of files and vector stores, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.storage.db.database import Database
from forwarder.storage.db.migrations.versions import v0008_owner_keys, v0009_vector_stores

TABLES = {
    "files",
    "file_parts",
    "vector_stores",
    "vector_store_batches",
    "vector_store_files",
    "vector_store_chunks",
}


def test_migration_creates_the_tables(any_database: Database) -> None:
    names = any_database.read(lambda c: sa.inspect(c).get_table_names())

    assert v0009_vector_stores.down_revision == v0008_owner_keys.revision
    assert set(names) >= TABLES


def test_migration_creates_a_full_text_index(any_database: Database) -> None:
    query = {
        "sqlite": "SELECT count(*) FROM vector_store_words",
        "postgresql": "SELECT count(words) FROM vector_store_chunks",
    }[any_database.kind]

    assert any_database.read(lambda c: c.exec_driver_sql(query).scalar()) == 0
