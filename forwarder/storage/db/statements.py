"""Statements that are run for every answer: their text is made once, for every kind of database.

To build a statement out of its parts, and to look up what it compiles to, takes SQLAlchemy longer
than SQLite takes to run it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

PLACEHOLDER = re.compile(r"(?<!:):(\w+)")


class Statement:
    """An SQL statement with ``:name`` for each value."""

    def __init__(self, sql: str) -> None:
        self._names = PLACEHOLDER.findall(sql)
        # SQLite's driver takes values by their places, PostgreSQL's by their names.
        self._positional_sql = PLACEHOLDER.sub("?", sql)
        self._named_sql = PLACEHOLDER.sub(r"%(\1)s", sql)

    def run(self, connection: sa.Connection, *rows: Mapping[str, Any]) -> int:
        """Run it for each of these rows; how many rows of the database it changed by the last."""
        changed = 0
        for row in rows:
            changed = self._execute(connection, row).rowcount
        return changed

    def fetch_rows(self, connection: sa.Connection, values: Mapping[str, Any]) -> list[Any]:
        """What it finds."""
        found: list[Any] = self._execute(connection, values).fetchall()
        return found

    def _execute(self, connection: sa.Connection, row: Mapping[str, Any]) -> Any:
        by_place = connection.dialect.paramstyle == "qmark"
        sql = self._positional_sql if by_place else self._named_sql
        driver: Any = connection.connection.driver_connection
        try:
            return driver.execute(sql, [row[name] for name in self._names] if by_place else row)
        except Exception as error:  # of whichever driver; what it says is for the log alone
            raise DBAPIError(sql, None, error) from error


def make_insert(table: sa.Table, on_conflict: str = "") -> Statement:
    """An INSERT of all columns of a table."""
    names = table.columns.keys()
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join(f":{name}" for name in names)
    sql = f"INSERT INTO {table.name} ({columns}) VALUES ({values}) {on_conflict}"  # noqa: S608
    return Statement(sql)


def make_upsert(table: sa.Table) -> Statement:
    """An INSERT that changes the row that is there already; two may put the same at once."""
    keys = table.primary_key.columns.keys()
    rest = [name for name in table.columns.keys() if name not in keys]  # noqa: SIM118
    changes = ", ".join(f'"{name}" = excluded."{name}"' for name in rest)
    return make_insert(table, f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}")
