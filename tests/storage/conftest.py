"""A database of a test's own, on SQLite, and background work in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.core.shutdown import Running
from forwarder.storage.background import Background
from forwarder.storage.conversation_lock import Holds
from forwarder.storage.db.database import Sqlite


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Sqlite]:
    made = Sqlite(tmp_path / "state.db")
    made.prepare()
    yield made
    made.close()


@pytest.fixture
def background(database: Sqlite) -> Background:
    return Background(database, Running(), Holds(database))


@pytest.fixture
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is long, and a database has settled at once."""
    for name in ("_RETRY", "_LOOK"):
        monkeypatch.setattr(f"forwarder.storage.background.{name}", 0.02)
    monkeypatch.setattr("forwarder.storage.db.settling.SETTLE_SECONDS", 0.02)
    monkeypatch.setattr("forwarder.storage.db.settling._PROBE_SECONDS", 0.0)
