"""The table of owner keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0007_attempts, v0008_owner_keys


def test_migration_creates_the_owner_keys() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0008_owner_keys.upgrade()
        columns = sa.inspect(connection).get_columns("owner_keys")
    engine.dispose()

    assert v0008_owner_keys.down_revision == v0007_attempts.revision
    assert [column["name"] for column in columns] == ["name", "created", "sealed"]
