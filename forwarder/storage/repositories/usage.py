"""Usage counts by hour. All workers add to the same rows."""

from __future__ import annotations

from collections.abc import Sequence

from forwarder.storage.db import Database, usage
from forwarder.storage.db.usage import (
    PricedSum,
    Prices,
    UsageCounts,
    UsageKey,
    UsageQuery,
    UsageSum,
)


class UsageRepository:
    """The usage in a database. Every method except `close` raises StoreUnavailable.

    It is a `usage.store.UsageStore`: ``is_shared`` says that the counts are those of all workers.
    """

    is_shared = True

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        """Add counts to the rows of their keys."""
        self._database.write(lambda c: usage.add_counts(c, rows))

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        """Return the sums of at most ``limit`` groups by key."""
        return self._database.read(lambda c: usage.sum_counts(c, query, limit))

    def sum_costs(self, query: UsageQuery, prices: Prices, limit: int) -> list[PricedSum]:
        """Return the sums of at most ``limit`` groups with costs."""
        return self._database.read(lambda c: usage.sum_costs(c, query, prices, limit))

    def close(self) -> None:
        """Do nothing. The services of the process close the database."""
