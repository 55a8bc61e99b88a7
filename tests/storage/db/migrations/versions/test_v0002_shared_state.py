"""Columns for several workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0001_first, v0002_shared_state


def test_migration_keeps_conversations() -> None:
    engine = sa.create_engine("sqlite://")
    add = "INSERT INTO conversations (owner, id, created, used, size, metadata) VALUES {}"
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        connection.execute(sa.text(add.format("('o', 'before', 1, 1, 1, '')")))
        v0002_shared_state.upgrade()
        connection.execute(sa.text(add.format("('o', 'by older code', 1, 1, 1, '')")))
        rows = connection.execute(sa.text("SELECT id, holder, lease FROM conversations")).all()
        made = sa.inspect(connection).get_table_names()
    engine.dispose()

    assert sorted(map(tuple, rows)) == [("before", None, None), ("by older code", None, None)]
    assert "thoughts" in made
    assert v0002_shared_state.down_revision == v0001_first.revision
