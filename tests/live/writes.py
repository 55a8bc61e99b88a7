"""Slows down the forwarder's writes with a database trigger, so that tests can interrupt them.

The trigger runs when an answer's transaction inserts a row into ``items``, its last row but one: the
response and its events are written then, and nothing is committed.
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
_SLOW_WRITE_SECONDS = 0.3
"""Seconds for which one write must hold the database to be the slow one."""


class Writes:
    """Observes and slows down the writes to the database at a URL."""

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
        """Make each write take seconds during the context."""
        with self._connect() as connection:
            for statement in (_SQLITE,) if self._path else _POSTGRES:
                connection.execute(statement)
        try:
            yield
        finally:
            with self._connect() as connection:
                connection.execute("DROP TRIGGER slow" + ("" if self._path else " ON items"))

    def wait_for_write(self) -> None:
        """Return while a slow write is running."""
        deadline, since = time.monotonic() + 20, time.monotonic()
        while time.monotonic() - since < _SLOW_WRITE_SECONDS:
            assert time.monotonic() < deadline, "nothing is written"
            if not self._is_under_way():
                since = time.monotonic()
            time.sleep(0.02)

    def _is_under_way(self) -> bool:
        if self._path is None:
            with self._connect() as connection:
                query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                row = connection.execute(query).fetchone()
                return bool(row and row[0])
        with contextlib.closing(sqlite3.connect(self._path, timeout=0)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            return False

    def count_rows(self) -> dict[str, int]:
        """Return the number of committed rows by table."""
        with self._connect() as connection:
            counts = {}
            for table in _TABLES:
                row = connection.execute(f"SELECT count(*) FROM {table}").fetchone()
                counts[table] = row[0] if row else 0
            return counts
