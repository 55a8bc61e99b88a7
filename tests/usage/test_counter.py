"""Requests are counted in memory, and the counts are added to a store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from forwarder.context.request_context import RequestContext
from forwarder.core.errors import ClientDisconnected, StoreUnavailable, UpstreamTimeout
from forwarder.core.translation_context import LossReport
from forwarder.middleware.usage_estimate import estimate_usage
from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery
from forwarder.usage import counter
from forwarder.usage.counter import UsageCounter, read_cached_tokens, read_reasoning_tokens
from forwarder.usage.store import MemoryUsageStore
from tests.helpers.check_cases import check_each

HOUR = 3600
NOW = 1_000_000 * HOUR
Json = dict[str, Any]
CHAT: Json = {
    "prompt_tokens": 21,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 4},
}
RESPONSES: Json = {
    "input_tokens": 21,
    "output_tokens": 9,
    "input_tokens_details": {"cached_tokens": 5},
    "output_tokens_details": {"reasoning_tokens": 4},
}


class FailingStore(MemoryUsageStore):
    """Fails as long as ``error`` is set."""

    def __init__(self) -> None:
        super().__init__(None)
        self.error: Exception | None = None
        self.added = threading.Event()

    def add_counts(self, rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        if self.error is not None:
            raise self.error
        super().add_counts(rows)
        self.added.set()


@pytest.fixture
def store() -> FailingStore:
    return FailingStore()


@pytest.fixture
def usage(store: FailingStore) -> UsageCounter:
    return UsageCounter(store, 0.01, lambda: NOW + 60.0)


def make_context(**fields: Any) -> RequestContext:
    context_fields = {
        "client_name": "alice",
        "requested_model": "m",
        "model": "m-2026",
        "upstream": "up",
        **fields,
    }
    return RequestContext("req_1", "chat", LossReport(), **context_fields)


def read_sums(store: MemoryUsageStore, *group: str) -> dict[tuple[int | str, ...], UsageCounts]:
    return dict(store.sum_counts(UsageQuery(0, 2 * NOW, group), 1000))


def count_request(
    usage_counter: UsageCounter, store: MemoryUsageStore, **fields: Any
) -> UsageCounts:
    """The counts of one request."""
    context = make_context(**{"started_at": 10.0, **fields})
    usage_counter.on_complete(context, 2.5)
    usage_counter.flush()
    return read_sums(store).get((), UsageCounts())


@check_each("tokens", [CHAT, RESPONSES])
def test_answer_counts_its_tokens_and_times(tokens: Json) -> None:
    store = MemoryUsageStore(None)
    usage = UsageCounter(store, 60, lambda: NOW + 60.0)
    usage.on_complete(make_context(usage=tokens, started_at=10.0, first_event_at=10.25), 2.5)
    usage.on_complete(make_context(usage=tokens, started_at=10.0, first_event_at=10.75), 0.5)
    assert read_sums(store) == {}
    usage.flush()

    assert read_sums(store, "hour", "client", "model", "upstream") == {
        (NOW, "alice", "m", "up"): UsageCounts(
            requests=2,
            input_tokens=42,
            cached_tokens=10,
            output_tokens=18,
            reasoning_tokens=8,
            first_events=2,
            first_event_ms=1000,
            duration_ms=3000,
        )
    }


@check_each(
    ("fields", "errors", "cancelled", "estimated"),
    [
        ({"usage": CHAT}, 0, 0, 0),
        ({"status": 429, "error": "rate_limit", "error_class": UpstreamTimeout}, 1, 0, 0),
        ({"error": "upstream_failed"}, 1, 0, 0),
        (
            {
                "status": 499,
                "error": "client_left",
                "error_class": ClientDisconnected,
                "is_cancelled": True,
            },
            0,
            1,
            0,
        ),
        ({"is_cancelled": True}, 0, 1, 0),
        ({"is_cancelled": True, "usage": CHAT}, 0, 0, 0),
        ({"usage": estimate_usage({"messages": []}, ["some text"])}, 0, 0, 1),
    ],
)
def test_requests_are_counted_as_errors_cancelled_or_estimated(
    fields: Json, errors: int, cancelled: int, estimated: int
) -> None:
    store = MemoryUsageStore(None)
    counts = count_request(UsageCounter(store, 60, lambda: NOW), store, **fields)

    assert (counts.requests, counts.errors, counts.cancelled, counts.estimated) == (
        1,
        errors,
        cancelled,
        estimated,
    )


@check_each("fields", [{"requested_model": None}, {"client_name": None}])
def test_requests_without_model_or_client_do_not_count(fields: Json) -> None:
    store = MemoryUsageStore(None)

    assert count_request(UsageCounter(store, 60, lambda: NOW), store, **fields) == UsageCounts()


@check_each(
    ("fields", "model", "upstream"),
    [
        ({}, "m", "up"),
        ({"requested_model": ""}, "m-2026", "up"),
        ({"requested_model": "", "model": None}, "unknown", "up"),
        ({"requested_model": "made-up", "upstream": None}, "unknown", "none"),
        ({"requested_model": "x" * 129}, "other", "up"),
        ({"requested_model": "a\0b"}, "other", "up"),
    ],
)
def test_counts_have_the_requested_model(fields: Json, model: str, upstream: str) -> None:
    store = MemoryUsageStore(None)
    count_request(UsageCounter(store, 60, lambda: NOW), store, **fields)

    assert list(read_sums(store, "model", "upstream")) == [(model, upstream)]


@check_each(
    ("usage", "cached", "reasoning"),
    [
        ({}, 0, 0),
        ({"prompt_cache_hit_tokens": 3}, 3, 0),
        ({"input_tokens_details": "x", "output_tokens_details": {"reasoning_tokens": "9"}}, 0, 0),
        ({"output_tokens_details": {"reasoning_tokens": 10**30}}, 0, 10**10),
    ],
)
def test_malformed_details_are_read_safely(usage: Json, cached: int, reasoning: int) -> None:
    assert (read_cached_tokens(usage), read_reasoning_tokens(usage)) == (cached, reasoning)


def test_huge_tokens_are_bounded(usage: UsageCounter, store: FailingStore) -> None:
    counts = count_request(
        usage, store, usage={"prompt_tokens": 10**30, "completion_tokens": 10**30}
    )

    assert counts.input_tokens == counts.output_tokens == counter.MAX_REQUEST_TOKENS


def test_cached_and_reasoning_tokens_do_not_exceed_the_totals(
    usage: UsageCounter, store: FailingStore
) -> None:
    invalid_usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "input_tokens_details": {"cached_tokens": 90},
        "output_tokens_details": {"reasoning_tokens": 70},
    }
    count_request(usage, store, usage=invalid_usage)
    counts = count_request(usage, store, usage={"input_tokens": 100, "output_tokens": 100})

    assert (counts.input_tokens, counts.cached_tokens) == (110, 10)
    assert (counts.output_tokens, counts.reasoning_tokens) == (105, 5)


def test_invented_models_of_one_client_are_bounded(
    monkeypatch: pytest.MonkeyPatch, store: FailingStore
) -> None:
    monkeypatch.setattr(counter, "MAX_CLIENT_ROWS", 3)
    now = NOW
    usage = UsageCounter(store, 60, lambda: float(now))
    for i in range(10):
        usage.on_complete(make_context(requested_model=f"m{i}"), 0.1)
        if i % 2:
            usage.flush()
    usage.on_complete(make_context(requested_model="m1"), 0.1)
    usage.on_complete(make_context(requested_model="m9", client_name="bob"), 0.1)
    now += HOUR
    usage.on_complete(make_context(requested_model="m9"), 0.1)
    usage.flush()

    request_counts = {
        key: counts.requests for key, counts in read_sums(store, "hour", "client", "model").items()
    }
    assert request_counts == {
        (NOW, "alice", "m0"): 1,
        (NOW, "alice", "m1"): 2,
        (NOW, "alice", "m2"): 1,
        (NOW, "alice", "other"): 7,
        (NOW, "bob", "m9"): 1,
        (NOW + HOUR, "alice", "m9"): 1,
    }
    assert ("alice", "other") in read_sums(store, "client", "upstream")


@check_each(("error", "has_trace"), [(StoreUnavailable(), False), (RuntimeError("x"), True)])
def test_counts_wait_while_the_store_fails(
    error: Exception, has_trace: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    store = FailingStore()
    usage = UsageCounter(store, 60, lambda: NOW)
    store.error = error
    with caplog.at_level(logging.ERROR, "forwarder"):
        for model in ("m", "n"):
            usage.on_complete(make_context(requested_model=model, usage=CHAT), 1.0)
            usage.on_complete(make_context(usage=CHAT), 1.0)
            usage.flush()
    store.error = None
    usage.on_complete(make_context(usage=CHAT), 1.0)
    usage.flush()
    usage.flush()

    request_counts = {key: counts.requests for key, counts in read_sums(store, "model").items()}
    assert request_counts == {("m",): 4, ("n",): 1}
    assert read_sums(store)[()].input_tokens == 5 * 21
    [record] = caplog.records
    assert record.__dict__["event"] == "usage_not_stored"
    assert bool(record.exc_info) is has_trace


def test_rows_that_wait_are_bounded(
    monkeypatch: pytest.MonkeyPatch, store: FailingStore, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(counter, "MAX_PENDING_ROWS", 4)
    usage = UsageCounter(store, 60, lambda: NOW)
    store.error = StoreUnavailable()
    for i in range(3):
        usage.on_complete(make_context(requested_model=f"m{i}"), 0.1)
    usage.flush()
    for i in range(7):
        usage.on_complete(make_context(requested_model=f"m{i}"), 0.1)
    store.error = None
    with caplog.at_level(logging.ERROR, "forwarder"):
        usage.flush()
        usage.flush()

    assert sum(counts.requests for counts in read_sums(store, "model").values()) == 3 + 4
    [record] = [r for r in caplog.records if r.__dict__["event"] == "usage_lost"]
    assert "3 requests" in record.getMessage()


def test_counts_are_added_regularly_and_at_the_end(
    usage: UsageCounter, store: FailingStore
) -> None:
    usage.start()
    usage.on_complete(make_context(), 0.1)
    assert store.added.wait(10)
    usage.close()
    usage.on_complete(make_context(), 0.1)
    usage.close()

    assert read_sums(store)[()].requests == 2


def test_flush_waits_for_counts_that_are_being_added(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FailingStore()
    usage = UsageCounter(store, 60, lambda: NOW)
    begun, allowed = threading.Event(), threading.Event()
    add_counts = store.add_counts

    def add_slowly(rows: Sequence[tuple[UsageKey, UsageCounts]]) -> None:
        begun.set()
        allowed.wait(10)
        add_counts(rows)

    monkeypatch.setattr(store, "add_counts", add_slowly)
    usage.on_complete(make_context(), 0.1)
    slow = threading.Thread(target=usage.flush)
    slow.start()
    assert begun.wait(10)
    threading.Timer(0.05, allowed.set).start()
    assert usage.flush()
    assert read_sums(store)[()].requests == 1
    slow.join()


def test_threads_lose_no_request(usage: UsageCounter, store: FailingStore) -> None:
    def count_often() -> None:
        for _ in range(500):
            usage.on_complete(make_context(usage=CHAT), 0.001)

    threads = [threading.Thread(target=count_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        usage.flush()
        time.sleep(0.001)
    usage.flush()

    assert (read_sums(store)[()].requests, read_sums(store)[()].input_tokens) == (2000, 2000 * 21)
