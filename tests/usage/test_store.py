"""The usage in the memory of a worker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery, UsageSum
from forwarder.usage import store
from forwarder.usage.store import MemoryUsageStore

HOUR = 3600
DAY = 24 * HOUR
COUNTS = UsageCounts(*range(1, 12))


def list_keys(memory: MemoryUsageStore, *group: str, client: str | None = None) -> list[object]:
    return [key for key, _ in memory.sum_counts(UsageQuery(0, 10 * DAY, group, client), 100)]


def test_sums_are_grouped_by_key() -> None:
    memory = MemoryUsageStore(None)
    rows = [
        (UsageKey(0, "alice", "m", "up"), COUNTS),
        (UsageKey(HOUR, "alice", "n", "up"), COUNTS),
        (UsageKey(DAY, "bob", "m", "up"), COUNTS),
    ]
    memory.add_counts(rows)
    memory.add_counts(rows[:1])

    assert not memory.is_shared
    assert memory.sum_counts(UsageQuery(0, DAY, ("client",)), 10) == [
        UsageSum(("alice",), UsageCounts(*(3 * n for n in COUNTS)))
    ]
    assert list_keys(memory, "day", "client") == [(0, "alice"), (DAY, "bob")]
    assert list_keys(memory, "hour") == [(0,), (HOUR,), (DAY,)]
    assert list_keys(memory, "model", client="bob") == [("m",)]
    assert len(memory.sum_counts(UsageQuery(0, 10 * DAY, ("hour",)), 2)) == 2
    assert memory.sum_counts(UsageQuery(0, 1, ()), 2)[0].key == ()


def test_sums_are_computed_outside_of_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, submitted = MemoryUsageStore(None), []
    memory.add_counts([(UsageKey(0, "alice", "m", "up"), COUNTS)])

    def record_and_run(work: Callable[[], object]) -> object:
        submitted.append(work)
        with memory._lock:  # not held, so that other requests can be counted
            return work()

    monkeypatch.setattr(memory._worker, "run", record_and_run)
    assert len(memory.sum_counts(UsageQuery(0, DAY, ("client",)), 9)) == len(submitted) == 1


def test_old_hours_are_dropped() -> None:
    now = 5.0 * HOUR
    memory = MemoryUsageStore(2 * HOUR, lambda: now)
    for hour in range(6):
        memory.add_counts([(UsageKey(hour * HOUR, "alice", "m", "up"), COUNTS)])

    assert list_keys(memory, "hour") == [(3 * HOUR,), (4 * HOUR,), (5 * HOUR,)]


def test_oldest_hours_are_dropped_above_the_row_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "MAX_MEMORY_ROWS", 4)
    memory = MemoryUsageStore(None)
    for hour in range(4):
        memory.add_counts(
            [(UsageKey(hour * HOUR, client, "m", "up"), COUNTS) for client in ("alice", "bob")]
        )

    assert list_keys(memory, "hour") == [(2 * HOUR,), (3 * HOUR,)]
