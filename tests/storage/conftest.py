"""A separate SQLite database for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.storage.db.database import SqliteDatabase


@pytest.fixture
def database(tmp_path: Path) -> Iterator[SqliteDatabase]:
    new_database = SqliteDatabase(tmp_path / "state.db")
    new_database.prepare()
    yield new_database
    new_database.close()
