"""The usage in a database."""

from __future__ import annotations

import pytest

from forwarder.core.errors import StoreUnavailable
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery, UsageSum
from forwarder.storage.repositories.usage import UsageRepository

KEY = UsageKey(3600, "alice", "m", "up")
QUERY = UsageQuery(0, 7200, ("client",))


def test_counts_of_all_workers_are_added_up(database: SqliteDatabase) -> None:
    first, second = UsageRepository(database), UsageRepository(database)
    first.add_counts([(KEY, UsageCounts(requests=1))])
    second.add_counts([(KEY, UsageCounts(requests=2, errors=1))])

    assert first.is_shared
    assert first.sum_counts(QUERY, 10) == [UsageSum(("alice",), UsageCounts(3, 1))]


def test_unavailable_database_adds_nothing(database: SqliteDatabase) -> None:
    repository = UsageRepository(database)
    database.write_breaker.error = "full"  # `trip` would try it again at once
    with pytest.raises(StoreUnavailable):
        repository.add_counts([(KEY, UsageCounts(requests=1))])

    assert repository.sum_counts(QUERY, 10) == []
