"""The repository of client keys: errors of a transaction reach the caller."""

from __future__ import annotations

import pytest

from forwarder.storage.db.client_keys import ClientKeyRow, KeyNameTaken
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.repositories.client_keys import ClientKeyRepository

ROW = ClientKeyRow("key_1", "alice", "wxyz", "d1", None, None, 1.0, None, None, None, {})


def test_a_refused_key_is_not_stored(database: SqliteDatabase) -> None:
    repository = ClientKeyRepository(database)
    repository.add(ROW)
    before = repository.read_generation()

    with pytest.raises(KeyNameTaken):
        repository.add(ROW._replace(id="key_2", digest="d2"))
    assert repository.list_keys() == [ROW]
    assert repository.read_generation() == before
    assert repository.change("key_1", {"revoked": 2.0})
    repository.record_use({"key_1": 3.0})
    assert repository.list_keys() == [ROW._replace(revoked=2.0, last_used=3.0)]
