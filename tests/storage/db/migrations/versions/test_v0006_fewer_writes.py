"""Smaller tables and indexes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import (
    v0001_first,
    v0005_items_by_id,
    v0006_fewer_writes,
)

_RESPONSE = (
    "INSERT INTO responses (owner, id, created, used, size, status, hidden, input, body)"
    " VALUES ('o', 'resp', 1, 1, 1, 'completed', 0, '', '')"
)
_ITEM = "INSERT INTO items (owner, id, response) VALUES ('o', '{}', 'resp')"


def test_migration_keeps_items() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        v0001_first.upgrade()
        for statement in (_RESPONSE, _ITEM.format("before")):
            connection.exec_driver_sql(statement)
        v0006_fewer_writes.upgrade()
        connection.exec_driver_sql(_ITEM.format("by older code"))
        items = connection.exec_driver_sql("SELECT id FROM items ORDER BY id").scalars().all()
        logs = connection.exec_driver_sql("SELECT log FROM responses").scalars().all()
        connection.exec_driver_sql("DELETE FROM responses")
        left = connection.exec_driver_sql("SELECT count(*) FROM items").scalar()
        tables = sa.inspect(connection).get_table_names()
    engine.dispose()

    assert v0006_fewer_writes.down_revision == v0005_items_by_id.revision
    assert (items, logs, left) == (["before", "by older code"], [None], 0)
    assert "items_of_before" not in tables


def test_partial_indexes_are_used() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        v0006_fewer_writes.upgrade()
        plans = [
            str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {question}").all())
            for question in (
                "SELECT 1 FROM responses a WHERE EXISTS (SELECT 1 FROM responses b"
                " WHERE b.owner = a.owner AND b.previous = a.id)",
                "SELECT id FROM responses WHERE lease IS NOT NULL AND lease < 5",
            )
        ]
    engine.dispose()

    assert "responses_by_previous" in plans[0]
    assert "responses_by_lease" in plans[1]
