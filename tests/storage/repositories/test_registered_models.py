"""Registered models: each change is counted in the same transaction."""

from __future__ import annotations

from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.registered_models import ModelRow
from forwarder.storage.repositories.registered_models import ModelRepository

ROW = ModelRow("m:latest", "v1", 1.0, 1.0, {"model": "m"}, None)


def test_each_change_has_another_generation(database: SqliteDatabase) -> None:
    repository = ModelRepository(database)
    before = repository.read_generation()

    repository.put(ROW)
    assert repository.list_models() == [ROW]
    assert repository.read_generation() == before + 1
    assert repository.remove("m:latest")
    assert repository.list_models() == []
    assert repository.read_generation() == before + 2
    assert not repository.remove("m:latest")
    assert repository.read_generation() == before + 2
