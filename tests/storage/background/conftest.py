"""A background runner with short intervals, and a database that can fail."""

from __future__ import annotations

import pytest

from forwarder.core.in_flight_requests import InFlightRequests
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db.database import SqliteDatabase
from tests.storage.background.helpers import WriteFailures


@pytest.fixture
def background(database: SqliteDatabase) -> BackgroundRunner:
    return BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))


@pytest.fixture
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all intervals, and let the database settle at once."""
    package = "forwarder.storage.background"
    for name in (
        "execution.RECONNECT_SECONDS",
        "execution.STORE_RETRY_SECONDS",
        "progress.RETRY_SECONDS",
        "progress.WRITE_SECONDS",
        "stopping.ORIGIN_POLL_SECONDS",
        "takeover.TAKEOVER_POLL_SECONDS",
    ):
        monkeypatch.setattr(f"{package}.{name}", 0.02)
    monkeypatch.setattr("forwarder.storage.db.lease_expiry.MIN_STABLE_SECONDS", 0.02)
    monkeypatch.setattr("forwarder.storage.db.lease_expiry.PROBE_SECONDS", 0.0)


@pytest.fixture
def failures(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> WriteFailures:
    monkeypatch.setattr(database.write_breaker, "_pause", 0.02)
    return WriteFailures(database, monkeypatch)
