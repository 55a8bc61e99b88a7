"""The table of usage, on both databases."""

from __future__ import annotations

import sqlalchemy as sa

from forwarder.storage.db.database import Database
from forwarder.storage.db.migrations.versions import v0010_payers, v0011_usage
from forwarder.storage.db.usage import UsageCounts, UsageKey


def test_migration_creates_the_table_with_its_key(any_database: Database) -> None:
    def inspect_table(connection: sa.Connection) -> tuple[list[str], list[str]]:
        found = sa.inspect(connection)
        columns = [each["name"] for each in found.get_columns("usage_hours")]
        return columns, found.get_pk_constraint("usage_hours")["constrained_columns"]

    columns, key = any_database.read(inspect_table)
    assert v0011_usage.down_revision == v0010_payers.revision
    assert key == list(UsageKey._fields)
    assert columns == [*UsageKey._fields, *UsageCounts._fields]
