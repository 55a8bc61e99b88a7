"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0001_first


def test_migration_creates_all_tables() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        made = set(sa.inspect(connection).get_table_names())
    engine.dispose()

    assert v0001_first.down_revision is None
    assert {"responses", "events", "items", "conversations", "completions", "chores"} < made
