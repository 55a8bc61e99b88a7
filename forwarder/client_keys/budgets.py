"""Budgets: limit the usage of a key in a day or month.

The usage of all workers is read from the store, and the requests that this worker has answered
since are added in memory. A request is rejected once the budget is used up; requests that are
already running end normally. So a budget is exceeded at most by the requests that run at the same
time, and by those that other workers answer within `REFRESH_SECONDS` plus FORWARDER_USAGE_INTERVAL.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from cachetools import LRUCache

from forwarder.client_keys.key import format_moment
from forwarder.context.client_identity import Budget
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import QuotaExceeded, StoreUnavailable
from forwarder.storage.db.usage import HOUR_SECONDS, UsageCounts, UsageQuery
from forwarder.usage.counter import count_request, name_model
from forwarder.usage.prices import PriceTable
from forwarder.usage.report import MAX_ROWS
from forwarder.usage.store import UsageStore

log = logging.getLogger("forwarder.client_keys")

REFRESH_SECONDS = 3.0
"""Minimum interval between two reads of the usage of all workers."""

SETTLE_SECONDS = 300.0
"""Seconds after which all hours of a period are read again; otherwise only the latest ones are.

Workers may add to earlier hours late, after an outage of the database.
"""

MAX_CACHED_CLIENTS = 10_000


class ClientUsage:
    """The usage of one client in a period, in the unit of its budget.

    ``settled`` is the stored usage of the hours before ``settled_until``, ``recent`` that of the
    later hours, and ``own`` the usage that this worker has added since the last read.
    """

    def __init__(self, budget: Budget, start: int, end: int) -> None:
        self.budget = budget
        self.start, self.end = start, end
        self.lock, self.refresh_lock = threading.Lock(), threading.Lock()
        self.settled = self.recent = self.own = 0.0
        self.settled_until = start
        self.settled_at = self.refreshed_at = float("-inf")

    @property
    def total(self) -> float:
        """The usage of the whole period."""
        return self.settled + self.recent + self.own


class BudgetObserver(RequestObserver):
    """Rejects requests of clients that have used up their budget.

    It must come after the `UsageCounter` in the list of observers. Then a request that ends while
    the store is read is counted twice for some seconds instead of being missed. ``flush`` adds the
    counts of this worker to ``store``.
    """

    def __init__(
        self,
        store: UsageStore,
        prices: PriceTable,
        flush: Callable[[], bool],
        observer: RequestObserver,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._prices = prices
        self._flush = flush
        self._observer = observer
        self._now = now
        self._clients: LRUCache[str, ClientUsage] = LRUCache(MAX_CACHED_CLIENTS)
        self._lock = threading.Lock()

    def authorize(self, context: RequestContext, address: str | None) -> None:
        """Raise QuotaExceeded if the client of a request has used up its budget."""
        grants = context.grants
        if grants is None or grants.budget is None:
            return
        usage = self._get_usage(grants.name, grants.budget)
        if time.monotonic() - usage.refreshed_at >= REFRESH_SECONDS:
            self._refresh(grants.name, usage)
        if usage.total < grants.budget.amount:
            return
        self._observer.on_rejection("budget")
        raise QuotaExceeded(
            f"You exceeded your current quota: the key may use {grants.budget}. "
            f"The quota is renewed at {format_moment(usage.end)}."
        )

    def on_complete(self, context: RequestContext, seconds: float) -> None:
        """Add the usage of a request until the store is read again."""
        usage = self._clients.get(context.client_name or "")
        if usage is None or context.requested_model is None:
            return
        counts = UsageCounts(*count_request(context, seconds))
        amount = self._measure(usage.budget, *name_model(context), counts)
        with usage.lock:
            usage.own += amount

    def get_used(self, name: str, budget: Budget) -> float:
        """Return the used part of a client's budget. Raises StoreUnavailable."""
        self._flush()
        start, end = find_period(budget.period, self._now())
        return self._read_usage(name, budget, start, end)

    def _get_usage(self, name: str, budget: Budget) -> ClientUsage:
        usage = self._clients.get(name)
        if usage is None or usage.budget != budget or self._now() >= usage.end:
            with self._lock:
                usage = ClientUsage(budget, *find_period(budget.period, self._now()))
                self._clients[name] = usage
        return usage

    def _refresh(self, name: str, usage: ClientUsage) -> None:
        """Read the stored usage of all workers. If the store is unavailable, the sums stay."""
        if not usage.refresh_lock.acquire(blocking=usage.settled_at < 0):
            return  # another request is reading; use the earlier sums meanwhile
        try:
            now = time.monotonic()
            if now - usage.refreshed_at >= REFRESH_SECONDS:
                usage.refreshed_at = now
                self._read_sums(name, usage, now)
        except StoreUnavailable:
            pass  # the database logged it
        finally:
            usage.refresh_lock.release()

    def _read_sums(self, name: str, usage: ClientUsage, now: float) -> None:
        with usage.lock:
            counted = usage.own
        if not self._flush():
            return  # this worker's counts are not in the store yet
        settled, until = usage.settled, usage.settled_until
        hour = int(self._now()) // HOUR_SECONDS * HOUR_SECONDS
        is_old = now - usage.settled_at >= SETTLE_SECONDS
        if is_old:
            until = max(usage.start, hour - HOUR_SECONDS)
            settled = self._read_usage(name, usage.budget, usage.start, until)
        recent = self._read_usage(name, usage.budget, until, usage.end)
        with usage.lock:
            usage.settled, usage.settled_until, usage.recent = settled, until, recent
            usage.own -= counted
        if is_old:
            usage.settled_at = now

    def _read_usage(self, name: str, budget: Budget, start: int, end: int) -> float:
        """Return a client's stored usage from ``start`` up to, but not including, ``end``."""
        if start >= end:
            return 0.0
        query = UsageQuery(start, end, ("model", "upstream"), name)
        return sum(
            self._measure(budget, str(row.key[0]), str(row.key[1]), row.counts)
            for row in self._store.sum_counts(query, MAX_ROWS)
        )

    def _measure(self, budget: Budget, model: str, upstream: str, counts: UsageCounts) -> float:
        """Return tokens, or their cost; models without a price cost nothing."""
        if budget.unit == "tokens":
            return counts.input_tokens + counts.output_tokens
        return self._prices.compute_cost(model, upstream, counts) or 0.0


def find_period(period: str, now: float) -> tuple[int, int]:
    """Return the start and the end of the UTC day or month at ``now``, in Unix seconds."""
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if period == "day":
        return int(day.timestamp()), int((day + timedelta(days=1)).timestamp())
    first = day.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    return int(first.timestamp()), int(following.timestamp())
