"""Columns for further attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import v0001_first, v0006_fewer_writes, v0007_attempts

_RESPONSE = (
    "INSERT INTO responses (owner, id, created, used, size, status, hidden, input, body)"
    " VALUES ('o', '{}', 1, 1, 1, 'queued', 0, '', '')"
)


def test_migration_adds_nullable_columns() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        connection.exec_driver_sql(_RESPONSE.format("before"))
        v0007_attempts.upgrade()
        connection.exec_driver_sql(_RESPONSE.format("by older code"))
        rows = connection.exec_driver_sql("SELECT request, attempt FROM responses").all()
    engine.dispose()

    assert v0007_attempts.down_revision == v0006_fewer_writes.revision
    assert rows == [(None, None), (None, None)]
