"""Precompiled statements."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.statements import Statement, make_insert, make_upsert
from forwarder.storage.db.tables import reasoning

ROW = {"owner": "o", "id": "a", "used": 1.0, "size": 2, "data": b"old"}


def read_all_rows(database: SqliteDatabase) -> list[tuple[Any, ...]]:
    return database.read(lambda c: [tuple(row) for row in c.execute(sa.select(reasoning))])


def test_rows_are_inserted_in_the_connection_s_transaction(database: SqliteDatabase) -> None:
    insert = make_insert(reasoning)
    other = {**ROW, "id": "b"}
    database.write(lambda c: insert.run(c, ROW, other))
    assert read_all_rows(database) == [tuple(ROW.values()), tuple(other.values())]

    def insert_and_fail(connection: sa.Connection) -> None:
        insert.run(connection, {**ROW, "id": "c"})
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        database.write(insert_and_fail)
    assert len(read_all_rows(database)) == 2


def test_upsert_and_insert_on_conflict(database: SqliteDatabase) -> None:
    new = {**ROW, "data": b"new", "used": 5.0}
    database.write(lambda c: make_upsert(reasoning).run(c, ROW))
    database.write(lambda c: make_upsert(reasoning).run(c, new))
    assert read_all_rows(database) == [tuple(new.values())]

    insert_if_missing = make_insert(reasoning, "ON CONFLICT (owner, id) DO NOTHING")
    assert database.write(lambda c: insert_if_missing.run(c, ROW)) == 0
    assert database.write(lambda c: insert_if_missing.run(c, {**ROW, "id": "b"})) == 1
    assert read_all_rows(database)[0] == tuple(new.values())


def test_driver_error_is_a_database_error(database: SqliteDatabase) -> None:
    database.write(lambda c: make_insert(reasoning).run(c, ROW))
    with pytest.raises(StoreUnavailable):
        database.write(lambda c: make_insert(reasoning).run(c, ROW))


def test_placeholders_match_the_driver() -> None:
    executed: list[tuple[str, Any]] = []

    class Driver:
        def execute(self, sql: str, values: Any) -> Any:
            executed.append((sql, values))
            return SimpleNamespace(rowcount=1)

    for style in ("qmark", "pyformat"):
        connection: Any = SimpleNamespace(
            dialect=SimpleNamespace(paramstyle=style),
            connection=SimpleNamespace(driver_connection=Driver()),
        )
        Statement("UPDATE t SET a = :a, b = x::text WHERE c = :c").run(connection, {"c": 2, "a": 1})
    assert executed == [
        ("UPDATE t SET a = ?, b = x::text WHERE c = ?", [1, 2]),
        ("UPDATE t SET a = %(a)s, b = x::text WHERE c = %(c)s", {"c": 2, "a": 1}),
    ]


def test_driver_error_is_wrapped_for_sqlalchemy(database: SqliteDatabase) -> None:
    def write(connection: sa.Connection) -> str:
        with pytest.raises(DBAPIError, match="no such table"):
            Statement("DELETE FROM absent WHERE a = :a").run(connection, {"a": 1})
        return "and the connection goes on"

    assert database.write(write)
