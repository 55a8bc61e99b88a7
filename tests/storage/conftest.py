"""A separate SQLite database for each test, with a background runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.core.shutdown import InFlightRequests
from forwarder.storage.background import BackgroundRunner
from forwarder.storage.conversation_lock import ConversationLocks
from forwarder.storage.db.database import SqliteDatabase


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "state.db")
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def background(database: SqliteDatabase) -> BackgroundRunner:
    return BackgroundRunner(database, InFlightRequests(), ConversationLocks(database))


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all intervals, and let the database settle at once."""
    for name in ("RETRY_SECONDS", "TAKEOVER_POLL_SECONDS"):
        monkeypatch.setattr(f"forwarder.storage.background.{name}", 0.02)
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 0.02)
    monkeypatch.setattr("forwarder.storage.db.settling.PROBE_SECONDS", 0.0)
