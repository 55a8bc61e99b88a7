"""Rules that hold for all tables."""

from __future__ import annotations

from forwarder.storage.db.tables import metadata

NOBODY_S = ("chores", "generations", "models", "owner_keys")
"""Tables that belong to the operator, not to a client."""


def test_every_table_of_clients_begins_with_its_owner() -> None:
    for table in metadata.tables.values():
        keys = [set(key.columns.keys()) for key in (table.primary_key, *table.constraints)]
        assert table.name in NOBODY_S or any("owner" in key for key in keys), table.name
