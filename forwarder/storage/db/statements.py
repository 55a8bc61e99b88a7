"""Precompiled SQL statements for queries that run on every request.

Building a statement from expressions and looking up its compiled form takes SQLAlchemy longer than
SQLite takes to run it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

PLACEHOLDER = re.compile(r"(?<!:):(\w+)")


class Statement:
    """An SQL statement with a ``:name`` placeholder for each value."""

    def __init__(self, sql: str) -> None:
        self._names = PLACEHOLDER.findall(sql)
        # SQLite's driver uses positional parameters, PostgreSQL's uses named ones.
        self._positional_sql = PLACEHOLDER.sub("?", sql)
        self._named_sql = PLACEHOLDER.sub(r"%(\1)s", sql)

    def run(self, connection: sa.Connection, *rows: Mapping[str, Any]) -> int:
        """Execute the statement for each row; return the row count of the last execution."""
        changed = 0
        for row in rows:
            changed = self._execute(connection, row).rowcount
        return changed

    def fetch_rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[Any]:
        """Execute the statement and return its rows."""
        rows: list[Any] = self._execute(connection, values).fetchall()
        return rows

    def _execute(self, connection: sa.Connection, row: Mapping[str, Any]) -> Any:
        by_place = connection.dialect.paramstyle == "qmark"
        sql = self._positional_sql if by_place else self._named_sql
        driver: Any = connection.connection.driver_connection
        try:
            return driver.execute(sql, [row[name] for name in self._names] if by_place else row)
        except Exception as error:  # of any driver
            raise DBAPIError(sql, None, error) from error


def make_insert(table: sa.Table, on_conflict: str = "") -> Statement:
    """Return an INSERT of all columns of a table."""
    names = table.columns.keys()
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(f":{name}" for name in names)
    sql = f"INSERT INTO {table.name} ({columns}) VALUES ({values}) {on_conflict}"  # noqa: S608
    return Statement(sql)


def make_upsert(table: sa.Table) -> Statement:
    """Return an INSERT that updates an existing row, safe under concurrent writes."""
    keys = table.primary_key.columns.keys()
    rest = [name for name in table.columns.keys() if name not in keys]  # noqa: SIM118
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in rest)
    return make_insert(table, f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}")
