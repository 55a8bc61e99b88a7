"""Rows of client keys, in SQLite and PostgreSQL."""

from __future__ import annotations

from functools import partial

import pytest

from forwarder.storage.db import client_keys
from forwarder.storage.db.change_notifier import read_generation
from forwarder.storage.db.client_keys import ClientKeyRow, KeyNameTaken, TooManyKeys
from forwarder.storage.db.database import Database

ROW = ClientKeyRow(
    id="key_1",
    name="alice",
    hint="wxyz",
    digest="d1",
    previous_digest=None,
    previous_until=None,
    created=10.0,
    expires=None,
    revoked=None,
    last_used=None,
    limits={"models": ["gpt-*"], "budget": "5 usd/month"},
)


def add(database: Database, row: ClientKeyRow) -> None:
    database.write(partial(client_keys.add, row=row))


def change(database: Database, key_id: str, **values: object) -> bool:
    return database.write(lambda c: client_keys.change(c, key_id, values))


def count_changes(database: Database) -> int:
    return database.read(lambda c: read_generation(c, client_keys.GENERATION_NAME))


def test_rows_are_stored_listed_and_changed(any_database: Database) -> None:
    second = ROW._replace(id="key_2", name="Bob", digest="d2", created=5.0)
    add(any_database, ROW)
    add(any_database, second)

    assert any_database.read(client_keys.list_keys) in ([ROW, second], [second, ROW])
    assert change(any_database, "key_1", limits={}, expires=99.0)
    assert not change(any_database, "key_3", expires=1.0)
    rows = {row.id: row for row in any_database.read(client_keys.list_keys)}
    assert rows == {"key_1": ROW._replace(limits={}, expires=99.0), "key_2": second}


def test_name_is_free_again_after_its_key_was_revoked(any_database: Database) -> None:
    add(any_database, ROW)
    newer = ROW._replace(id="key_2", digest="d2", created=20.0)
    with pytest.raises(KeyNameTaken):
        add(any_database, newer)

    assert change(any_database, "key_1", revoked=15.0)
    assert not change(any_database, "key_1", revoked=None), "a revoked key stays revoked"
    add(any_database, newer)
    assert [row.id for row in any_database.read(client_keys.list_keys)] == ["key_2", "key_1"]


def test_earliest_revoked_keys_are_removed_first(
    any_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_keys, "MAX_KEYS", 2)
    add(any_database, ROW)
    add(any_database, ROW._replace(id="key_2", name="bob", digest="d2"))
    third = ROW._replace(id="key_3", name="carol", digest="d3")
    with pytest.raises(TooManyKeys):
        add(any_database, third)

    assert change(any_database, "key_1", revoked=15.0)
    add(any_database, third)
    assert [row.id for row in any_database.read(client_keys.list_keys)] == ["key_2", "key_3"]


def test_changes_are_counted_and_uses_are_not(any_database: Database) -> None:
    add(any_database, ROW)
    change(any_database, "key_1", expires=5.0)
    assert count_changes(any_database) == 2

    any_database.write(lambda c: client_keys.record_use(c, {"key_1": 70.0, "key_9": 1.0}))
    any_database.write(lambda c: client_keys.record_use(c, {"key_1": 60.0}))
    assert count_changes(any_database) == 2
    assert any_database.read(client_keys.list_keys)[0].last_used == 70.0
