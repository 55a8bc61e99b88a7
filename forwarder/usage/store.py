"""Stores that add up usage counts: the interface, and the store in the memory of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from forwarder.core.blocking_work import BlockingPool
from forwarder.storage.db.usage import (
    DAY_SECONDS,
    PricedSum,
    Prices,
    UsageCounts,
    UsageKey,
    UsageQuery,
    UsageSum,
    compute_cost,
)

MAX_MEMORY_ROWS = 20_000
"""Maximum number of rows in memory, about 10 MB. Above it, the oldest hours are dropped."""


class UsageStore(Protocol):
    """Adds up counts by key. ``is_shared`` is true if all workers add to the same counts."""

    @property
    def is_shared(self) -> bool: ...

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        """Add counts to the rows of their keys. Raises StoreUnavailable if nothing was added."""

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        """Return the sums of at most ``limit`` groups. Raises StoreUnavailable."""

    def sum_costs(self, query: UsageQuery, prices: Prices, limit: int) -> list[PricedSum]:
        """Return the sums of at most ``limit`` groups with costs. Raises StoreUnavailable."""

    def close(self) -> None:
        """End the threads of the store."""


class MemoryUsageStore:
    """The usage of this process, for at most ``max_age`` seconds (None: as long as it fits)."""

    is_shared = False

    def __init__(self, max_age: float | None, now: Callable[[], float] = time.time) -> None:
        self._max_age = max_age
        self._now = now
        self._lock = threading.Lock()
        self._rows: dict[UsageKey, UsageCounts] = {}
        self._worker = BlockingPool(1)  # a thread: sums of all rows take 0.1 s

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        with self._lock:
            for key, counts in rows:
                self._rows[key] = self._rows.get(key, UsageCounts()).add(counts)
            self._remove_old_hours()

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        return [UsageSum(each.key, each.counts) for each in self.sum_costs(query, {}, limit)]

    def sum_costs(self, query: UsageQuery, prices: Prices, limit: int) -> list[PricedSum]:
        with self._lock:
            rows = list(self._rows.items())
        return self._worker.run(lambda: sum_rows(rows, query, prices)[:limit])

    def close(self) -> None:
        self._worker.close()

    def _remove_old_hours(self) -> None:
        oldest = float("-inf") if self._max_age is None else self._now() - self._max_age
        excess = len(self._rows) - MAX_MEMORY_ROWS
        if excess > 0:
            oldest = max(oldest, sorted(key.hour for key in self._rows)[excess - 1] + 1)
        if any(key.hour < oldest for key in self._rows):
            self._rows = {key: row for key, row in self._rows.items() if key.hour >= oldest}


def sum_rows(
    rows: Iterable[tuple[UsageKey, UsageCounts]], query: UsageQuery, prices: Prices
) -> list[PricedSum]:
    """Return the sums of the rows that a query selects, in its order."""
    sums: dict[tuple[int | str, ...], PricedSum] = {}
    for key, counts in rows:
        if query.start <= key.hour < query.end and query.client in (None, key.client):
            price = prices.get((key.model, key.upstream))
            group = make_group_key(key, query.group)
            cost = None if price is None else compute_cost(counts, price)
            unpriced = counts.requests if price is None else 0
            found = sums.get(group)
            if found is not None:
                counts, unpriced = found.counts.add(counts), found.unpriced_requests + unpriced
                cost = found.cost if cost is None else (found.cost or 0.0) + cost
            sums[group] = PricedSum(group, counts, cost, unpriced)
    ordered = sorted(sums.values())
    if query.largest_first:
        ordered.sort(key=lambda each: (-each.counts.tokens, -each.counts.requests))
    return ordered


def make_group_key(key: UsageKey, names: Sequence[str]) -> tuple[int | str, ...]:
    """Return the values of the dimensions ``names``, as in `UsageQuery.group`, of a key."""
    values = {**key._asdict(), "day": key.hour - key.hour % DAY_SECONDS}
    return tuple(values[name] for name in names)
