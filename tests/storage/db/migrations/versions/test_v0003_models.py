"""The tables of registered models."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0001_first, v0002_shared_state, v0003_models


def test_migration_keeps_existing_tables() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        v0002_shared_state.upgrade()
        before = set(sa.inspect(connection).get_table_names())
        v0003_models.upgrade()
        made = set(sa.inspect(connection).get_table_names())
    engine.dispose()

    assert v0003_models.down_revision == v0002_shared_state.revision
    assert made - before == {"models", "generations"}
