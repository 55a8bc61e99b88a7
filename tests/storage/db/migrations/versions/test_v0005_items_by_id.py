"""The index of conversation items by id."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from forwarder.storage.db.migrations.versions import (
    v0001_first,
    v0004_tombstones,
    v0005_items_by_id,
)


def test_migration_creates_the_index() -> None:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):
        v0001_first.upgrade()
        v0005_items_by_id.upgrade()
        made = sa.inspect(connection).get_indexes("conversation_items")
    engine.dispose()

    assert v0005_items_by_id.down_revision == v0004_tombstones.revision
    assert [(each["name"], each["column_names"]) for each in made] == [
        ("conversation_items_by_id", ["owner", "id"])
    ]
