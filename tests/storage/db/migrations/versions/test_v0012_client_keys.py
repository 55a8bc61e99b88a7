"""The table of client keys, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.storage.db.client_keys import ClientKeyRow
from forwarder.storage.db.database import Database
from forwarder.storage.db.migrations.versions import v0011_usage, v0012_client_keys


def test_migration_creates_the_table(any_database: Database) -> None:
    def inspect_columns(connection: sa.Connection) -> dict[str, bool]:
        columns = sa.inspect(connection).get_columns("client_keys")
        return {column["name"]: bool(column["nullable"]) for column in columns}

    columns = any_database.read(inspect_columns)
    assert v0012_client_keys.down_revision == v0011_usage.revision
    assert list(columns) == list(ClientKeyRow._fields)
    assert [name for name in columns if columns[name]] == [
        "previous_digest", "previous_until", "expires", "revoked", "last_used",
    ]  # fmt: skip
