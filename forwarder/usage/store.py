"""Where counts of usage are added up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from forwarder.storage.db.usage import (
    DAY_SECONDS,
    UsageCounts,
    UsageKey,
    UsageQuery,
    UsageSum,
)

MAX_MEMORY_ROWS = 20_000
"""Rows in the memory of a worker, about 10 MB. Beyond, the oldest hours are dropped."""


class UsageStore(Protocol):
    """Adds up counts by key. ``is_shared`` is true if all workers add to the same counts."""

    @property
    def is_shared(self) -> bool: ...

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        """Add counts to those of their keys. Raises StoreUnavailable if nothing was added."""

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        """Return the sums of at most ``limit`` groups by key. Raises StoreUnavailable."""


class MemoryUsageStore:
    """The usage of this process, for at most ``max_age`` seconds (None: as long as it fits)."""

    is_shared = False

    def __init__(self, max_age: float | None, now: Callable[[], float] = time.time) -> None:
        self._max_age = max_age
        self._now = now
        self._lock = threading.Lock()
        self._rows: dict[UsageKey, UsageCounts] = {}

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        with self._lock:
            for key, counts in rows:
                self._rows[key] = self._rows.get(key, UsageCounts()).add(counts)
            self._remove_old_hours()

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        sums: dict[tuple[int | str, ...], UsageCounts] = {}
        with self._lock:
            for key, counts in self._rows.items():
                if query.start <= key.hour < query.end and query.client in (None, key.client):
                    group = make_group(key, query.group)
                    sums[group] = sums.get(group, UsageCounts()).add(counts)
        return [UsageSum(group, sums[group]) for group in sorted(sums)[:limit]]

    def _remove_old_hours(self) -> None:
        oldest = float("-inf") if self._max_age is None else self._now() - self._max_age
        excess = len(self._rows) - MAX_MEMORY_ROWS
        if excess > 0:
            oldest = max(oldest, sorted(key.hour for key in self._rows)[excess - 1] + 1)
        if any(key.hour < oldest for key in self._rows):
            self._rows = {key: row for key, row in self._rows.items() if key.hour >= oldest}


def make_group(key: UsageKey, names: Sequence[str]) -> tuple[int | str, ...]:
    """Return the values of a key by which `UsageQuery.group` separates sums."""
    values = {**key._asdict(), "day": key.hour - key.hour % DAY_SECONDS}
    return tuple(values[name] for name in names)
