"""List positions of deleted rows."""

from __future__ import annotations

import pytest

from forwarder.storage.db import tombstones
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.retention import Pruner


def find_place(
    database: SqliteDatabase, name: str, owner: str = "o", holder: str = "h"
) -> int | None:
    return database.read(lambda c: tombstones.find_position(c, owner, holder, name))


def test_latest_position_is_kept_per_owner(database: SqliteDatabase) -> None:
    for number in (1, 5):
        database.write(lambda c, number=number: tombstones.add_tombstone(c, "o", "h", "a", number))  # type: ignore[misc]
    assert find_place(database, "a") == 5
    assert find_place(database, "a", owner="p") is None
    assert find_place(database, "a", holder="i") is None


def test_tombstones_expire(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database.write(lambda c: tombstones.add_tombstone(c, "o", "h", "a", 1))
    Pruner(database, None, 2**40).prune()
    assert find_place(database, "a") == 1
    monkeypatch.setattr(tombstones, "TOMBSTONE_SECONDS", -1.0)
    Pruner(database, None, 2**40).prune()
    assert find_place(database, "a") is None
