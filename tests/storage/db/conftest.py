"""A database of a test's own, on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from forwarder.storage.db.database import Sqlite


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Sqlite]:
    made = Sqlite(tmp_path / "state.db")
    made.prepare()
    yield made
    made.close()
