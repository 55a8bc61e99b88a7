"""The table of tombstones."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0003_models, v0004_tombstones


def test_migration_creates_the_tombstones() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0004_tombstones.upgrade()
        made = sa.inspect(connection).get_table_names()
    engine.dispose()

    assert v0004_tombstones.down_revision == v0003_models.revision
    assert made == ["gone"]
