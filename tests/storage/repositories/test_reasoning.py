"""Cached reasoning: by owner and name, until it was not used for a while."""

from __future__ import annotations

import time

import pytest

from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.repositories.reasoning import ReasoningRepository


def test_use_keeps_a_value(database: SqliteDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = ReasoningRepository(database)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 100)
    repository.add("o", {"a": b"1", "b": b"2"})
    monkeypatch.setattr(time, "time", lambda: now)
    assert repository.find("o", ["a"], now - 50) == {}

    repository.touch("o", ["a"])

    assert [row.data for row in repository.find("o", ["a", "b"], now - 50).values()] == [b"1"]
    assert repository.find("o", ["b"], now - 200)["b"].data == b"2"
    assert repository.find("p", ["a"], 0.0) == {}
