"""The database clock."""

from __future__ import annotations

import time

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from forwarder.storage.db.clock import LEASE_SECONDS, NEW_LEASE, NOW
from forwarder.storage.db.database import SqliteDatabase


def test_clock_is_read_from_the_database(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    now, lease = database.read(lambda c: c.execute(sa.select(NOW, NEW_LEASE)).one())

    assert abs(now - real) < 5
    assert lease == pytest.approx(now + LEASE_SECONDS, abs=1)


def test_postgresql_clock_expression() -> None:
    sql = str(sa.select(NEW_LEASE).compile(dialect=postgresql.dialect()))

    assert "statement_timestamp()" in sql
