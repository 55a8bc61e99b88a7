"""Has the forwarder's writes last long enough to be hit in the middle, by a trigger in its database.

A row of ``items`` is the last but one that an answer's transaction writes: while the trigger is at
work, the response and its events are written, and nothing is committed.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator

import psycopg

_SQLITE = """
CREATE TRIGGER slow AFTER INSERT ON items BEGIN
  SELECT (WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 30000000)
          SELECT max(n) FROM c);
END
"""
_POSTGRES = (
    "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_sleep(4); RETURN NULL; END $$",
    "CREATE TRIGGER slow AFTER INSERT ON items FOR EACH ROW EXECUTE FUNCTION slow()",
)
_TABLES = ("responses", "events", "items", "conversation_items")
_LONG = 0.3
"""Seconds for which no other write has the database."""


class Writes:
    """The writes to a database, by its URL."""

    def __init__(self, url: str) -> None:
        self._path = url.removeprefix("sqlite:///") if url.startswith("sqlite") else None
        self._url = url

    @contextlib.contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection | psycopg.Connection]:
        connection = (
            sqlite3.connect(self._path, timeout=20, isolation_level=None)
            if self._path
            else psycopg.connect(self._url, autocommit=True)
        )
        with contextlib.closing(connection):
            yield connection

    @contextlib.contextmanager
    def slow_down(self) -> Iterator[None]:
        """In here, each takes seconds."""
        with self._connect() as connection:
            for statement in (_SQLITE,) if self._path else _POSTGRES:
                connection.execute(statement)
        try:
            yield
        finally:
            with self._connect() as connection:
                connection.execute("DROP TRIGGER slow" + ("" if self._path else " ON items"))

    def wait_for_one(self) -> None:
        """Return in the middle of one."""
        deadline, since = time.monotonic() + 20, time.monotonic()
        while time.monotonic() - since < _LONG:
            assert time.monotonic() < deadline, "nothing is written"
            if not self._is_under_way():
                since = time.monotonic()
            time.sleep(0.02)

    def _is_under_way(self) -> bool:
        if self._path is None:
            with self._connect() as connection:
                asked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                row = connection.execute(asked).fetchone()
                return bool(row and row[0])
        with contextlib.closing(sqlite3.connect(self._path, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def rows(self) -> dict[str, int]:
        """How many rows there are for all to see."""
        with self._connect() as connection:
            counts = {}
            for table in _TABLES:
                row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                counts[table] = row[0] if row else 0
            return counts
