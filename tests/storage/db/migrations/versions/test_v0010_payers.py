"""The column of payers, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.storage.db.database import Database
from forwarder.storage.db.migrations.versions import v0009_vector_stores, v0010_payers


def test_migration_adds_a_nullable_column(any_database: Database) -> None:
    columns = any_database.read(lambda c: sa.inspect(c).get_columns("vector_store_files"))

    assert v0010_payers.down_revision == v0009_vector_stores.revision
    assert [each["nullable"] for each in columns if each["name"] == "payer"] == [True]
