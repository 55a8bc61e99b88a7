"""Evaluation of expired leases, with a clock and a database controlled by the test."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db import lease_expiry
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.lease_expiry import MIN_STABLE_SECONDS, StabilityMonitor


class Store:
    """A database with failing or slow writes."""

    def __init__(self) -> None:
        self.now = 100.0
        self.fails = False
        self.seconds = 0.0
        self.probes = 0

    def probe(self) -> None:
        self.probes += 1
        self.now += self.seconds
        if self.fails:
            raise StoreUnavailable

    def pass_time(self, monitor: StabilityMonitor, seconds: float) -> bool:
        """Poll once per second; return the last result."""
        answer = False
        for _ in range(round(seconds)):
            self.now += 1.0
            answer = monitor.is_stable()
        return answer


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    new_store = Store()
    monkeypatch.setattr(lease_expiry.time, "monotonic", lambda: new_store.now)
    return new_store


@pytest.fixture
def monitor(store: Store) -> StabilityMonitor:
    return StabilityMonitor(store.probe)


def test_database_settles_after_successful_writes(store: Store, monitor: StabilityMonitor) -> None:
    assert not monitor.is_stable()
    assert not store.pass_time(monitor, MIN_STABLE_SECONDS - 1)
    assert store.pass_time(monitor, 1)
    assert store.probes == MIN_STABLE_SECONDS + 1


def test_failed_write_restarts_the_stable_time(store: Store, monitor: StabilityMonitor) -> None:
    store.pass_time(monitor, MIN_STABLE_SECONDS + 1)
    store.fails = True
    assert not store.pass_time(monitor, 1)
    store.fails = False
    assert not store.pass_time(monitor, MIN_STABLE_SECONDS)
    assert store.pass_time(monitor, 1)
    monitor.restart()
    assert not store.pass_time(monitor, MIN_STABLE_SECONDS)
    assert store.pass_time(monitor, 1)


@pytest.mark.parametrize(("pause", "settled"), [(7.0, True), (8.0, False), (3600.0, False)])
def test_long_probe_gap_restarts_the_stable_time(
    pause: float, settled: bool, store: Store, monitor: StabilityMonitor
) -> None:
    store.pass_time(monitor, MIN_STABLE_SECONDS + 1)
    store.now += pause
    assert monitor.is_stable() is settled


def test_hanging_database_has_not_settled(store: Store, monitor: StabilityMonitor) -> None:
    store.pass_time(monitor, MIN_STABLE_SECONDS + 1)
    store.seconds = MIN_STABLE_SECONDS + 1
    assert not store.pass_time(monitor, 1)
    store.seconds = 0.0
    assert not store.pass_time(monitor, MIN_STABLE_SECONDS - 1)
    assert store.pass_time(monitor, 1)


def test_concurrent_callers_share_one_probe(store: Store, monitor: StabilityMonitor) -> None:
    for _ in range(5):
        monitor.is_stable()
    assert store.probes == 1


def test_readable_full_database_has_not_settled(
    database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_expiry, "MIN_STABLE_SECONDS", 0.0)
    monkeypatch.setattr(lease_expiry, "PROBE_SECONDS", 0.0)
    pages = database.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    database._close_idle_connections()

    def fill(connection: Any, record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    for engine in (database._read_engine, database._trial_read_engine):
        sa.event.listen(engine, "connect", fill)
    assert not database.is_stable()
    assert database.read(lambda c: c.scalar(sa.text("SELECT count(*) FROM responses"))) == 0
