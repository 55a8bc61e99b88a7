"""Cached reasoning rows: owners and expiry."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa

from forwarder.storage.db import reasoning
from forwarder.storage.db.database import SqliteDatabase


def find_data(
    database: SqliteDatabase, owner: str, *names: str, since: float = 0.0
) -> dict[str, bytes]:
    rows = database.read(lambda c: reasoning.find(c, owner, names, since))
    return {name: thought.data for name, thought in rows.items()}


def add_values(database: SqliteDatabase, owner: str, **values: bytes) -> None:
    database.write(lambda c: reasoning.add(c, owner, values))


def test_latest_value_is_found_by_its_owner(database: SqliteDatabase) -> None:
    add_values(database, "me", a=b"old", b=b"x")
    add_values(database, "me", a=b"new", c=b"y")
    add_values(database, "other", a=b"not mine")

    assert find_data(database, "me", "a", "b", "d") == {"a": b"new", "b": b"x"}
    assert find_data(database, "other", "a", "b") == {"a": b"not mine"}


def test_value_last_used_before_the_limit_is_not_found(database: SqliteDatabase) -> None:
    add_values(database, "me", a=b"1", b=b"2")
    add_values(database, "other", a=b"3")
    database.write(lambda c: c.execute(sa.text("UPDATE thoughts SET used = 5")))
    assert find_data(database, "me", "a", since=5.0)
    assert not find_data(database, "me", "a", since=6.0)

    database.write(lambda c: reasoning.touch(c, "me", ["a", "none"]))
    now = time.time()
    assert find_data(database, "me", "a", "b", since=now - 60) == {"a": b"1"}
    assert not find_data(database, "other", "a", since=now - 60)


@pytest.mark.parametrize("count", [0, 1, 1201])
def test_any_number_of_values_can_be_found(count: int, database: SqliteDatabase) -> None:
    values = {str(i): b"x" for i in range(count)}
    if values:
        add_values(database, "me", **values)

    assert find_data(database, "me", *values) == values
