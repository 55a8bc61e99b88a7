"""Budgets: stored usage plus this worker's answers since the last read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from forwarder.client_keys import budgets
from forwarder.client_keys.budgets import BudgetObserver, find_period
from forwarder.config.settings import Settings
from forwarder.context.client_identity import Budget, ClientGrants
from forwarder.context.request_context import RequestContext, RequestObserver
from forwarder.core.errors import QuotaExceeded, StoreUnavailable
from forwarder.core.translation_context import LossReport
from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery, UsageSum
from forwarder.usage.counter import UsageCounter
from forwarder.usage.prices import PriceTable
from forwarder.usage.store import MemoryUsageStore
from tests.helpers.check_cases import check_each

START = datetime(2026, 5, 31, 22, 30, tzinfo=UTC).timestamp()
HOUR = 3600


class SlowStore(MemoryUsageStore):
    """Counts reads, and can be unavailable."""

    reads = 0
    is_away = False

    def sum_counts(self, query: UsageQuery, limit: int) -> list[UsageSum]:
        self.reads += 1
        if self.is_away:
            raise StoreUnavailable
        return super().sum_counts(query, limit)

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        if self.is_away:
            raise StoreUnavailable
        super().add_counts(rows)


class RecordingObserver(RequestObserver):
    def __init__(self) -> None:
        self.reasons: list[str] = []

    def on_rejection(self, reason: str, upstream: str | None = None) -> None:
        self.reasons.append(reason)


class Worker:
    """The observers of one worker, with clocks that the test sets."""

    def __init__(self, store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = START
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        settings = Settings.from_env({"FORWARDER_PRICES": "priced=1000000/1000000/1000000"})
        self.counter = UsageCounter(store, 60, lambda: self.now)
        self.observer = RecordingObserver()
        self.budgets = BudgetObserver(
            store, PriceTable(settings), self.counter.flush, self.observer, lambda: self.now
        )

    def send(self, budget: str, tokens: int = 10, model: str = "m", client: str = "alice") -> bool:
        """Send a request; return whether it was admitted."""
        amount, unit, period = budget.replace("/", " ").split()
        grants = ClientGrants(client, budget=Budget(float(amount), unit, period))
        context = RequestContext(
            "req_1",
            "chat",
            LossReport(),
            client_name=client,
            grants=grants,
            observers=[self.counter, self.budgets],
        )
        try:
            context.authorize(None)
        except QuotaExceeded as error:
            assert error.headers["X-Should-Retry"] == "false"
            return False
        context.requested_model, context.upstream = model, "chat"
        context.usage = {"prompt_tokens": tokens, "completion_tokens": 0}
        context.close()
        return True


@pytest.fixture
def store() -> SlowStore:
    return SlowStore(None)


@pytest.fixture
def worker(store: SlowStore, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(store, monkeypatch)


def test_requests_are_refused_once_the_budget_is_used(worker: Worker) -> None:
    assert [worker.send("25 tokens/day") for _ in range(5)] == [True, True, True, False, False]
    assert worker.observer.reasons == ["budget", "budget"]
    assert worker.send("25 tokens/day", client="bob")
    assert worker.send("100 tokens/day"), "a larger budget applies at once"
    assert worker.budgets.get_used("alice", Budget(25, "tokens", "day")) == 40


def test_money_is_counted_by_prices(worker: Worker) -> None:
    admitted = [worker.send("25 usd/month", model="priced") for _ in range(4)]
    assert admitted == [True, True, True, False]
    assert worker.send("25 usd/month", model="unpriced", client="bob", tokens=10**9)
    assert worker.send("25 usd/month", model="unpriced", client="bob")


def test_budget_is_fresh_in_the_next_period(worker: Worker) -> None:
    assert [worker.send("5 tokens/day") for _ in range(2)] == [True, False]
    worker.now = START + 2 * HOUR  # 1 June
    assert [worker.send("5 tokens/day") for _ in range(2)] == [True, False]


def test_usage_of_other_workers_counts_after_some_seconds(worker: Worker, store: SlowStore) -> None:
    assert worker.send("100 tokens/month")
    hour = int(START) // HOUR * HOUR
    store.add_counts([(UsageKey(hour, "alice", "m", "chat"), UsageCounts(1, input_tokens=95))])
    assert worker.send("100 tokens/month", tokens=1), "within the lifetime of the cache"
    worker.now += budgets.REFRESH_SECONDS
    assert not worker.send("100 tokens/month")


def test_earlier_hours_are_read_rarely(worker: Worker, store: SlowStore) -> None:
    early = datetime(2026, 5, 2, tzinfo=UTC).timestamp()
    late_row = (UsageKey(int(early), "alice", "m", "chat"), UsageCounts(1, input_tokens=50))
    store.add_counts([late_row])
    assert worker.send("100 tokens/month")
    assert store.reads == 2  # earlier and latest hours
    for _ in range(5):
        assert worker.send("100 tokens/month", tokens=0)
    assert store.reads == 2
    worker.now += budgets.REFRESH_SECONDS
    assert worker.send("100 tokens/month", tokens=0)
    assert store.reads == 3
    store.add_counts([late_row])
    worker.now += budgets.SETTLE_SECONDS
    assert not worker.send("100 tokens/month", tokens=0)
    assert store.reads == 5


def test_worker_counts_alone_while_the_store_is_unavailable(
    worker: Worker, store: SlowStore
) -> None:
    assert worker.send("25 tokens/day")
    store.is_away = True
    worker.now += budgets.REFRESH_SECONDS
    assert [worker.send("25 tokens/day") for _ in range(3)] == [True, True, False]
    store.is_away = False
    worker.now += budgets.REFRESH_SECONDS
    assert not worker.send("25 tokens/day")
    assert worker.budgets.get_used("alice", Budget(25, "tokens", "day")) == 30


def test_client_without_budget_causes_no_read(worker: Worker, store: SlowStore) -> None:
    context = RequestContext("req_1", "chat", LossReport(), observers=[worker.budgets])
    context.authorize(None)
    context.grants = ClientGrants("alice")
    context.authorize(None)
    context.close()
    assert store.reads == 0


@check_each(
    ("period", "at", "start", "end"),
    [
        ("day", (2026, 5, 31, 22), (2026, 5, 31), (2026, 6, 1)),
        ("month", (2026, 12, 31, 23), (2026, 12, 1), (2027, 1, 1)),
        ("month", (2028, 2, 1, 0), (2028, 2, 1), (2028, 3, 1)),
    ],
)
def test_period_is_that_of_utc(
    period: str, at: tuple[int, ...], start: tuple[int, ...], end: tuple[int, ...]
) -> None:
    def seconds(parts: tuple[int, ...]) -> int:
        return int(datetime(*parts, tzinfo=UTC).timestamp())  # type: ignore[arg-type,misc]

    assert find_period(period, seconds(at)) == (seconds(start), seconds(end))
