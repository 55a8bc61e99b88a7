"""Changes of exchanges that are sent to followers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from forwarder.observability.capture import feed as feed_module
from forwarder.observability.capture.feed import Change, ExchangeFeed, ExchangeFollower
from forwarder.observability.capture.stores import CaptureLimits, MemoryCaptureStore, generate_name

Json = dict[str, Any]


class RunningExchanges:
    """The running exchanges of all workers."""

    def __init__(self) -> None:
        self.summaries: dict[str, Json] = {}

    def list_summaries(self) -> list[Json]:
        return list(self.summaries.values())

    def begin(self, age: float = 0.0, **fields: Any) -> str:
        name = generate_name(time.time() - age)
        self.summaries[name] = {"id": name, "running": True, **fields}
        return name


@pytest.fixture
def running() -> RunningExchanges:
    return RunningExchanges()


@pytest.fixture
def store() -> MemoryCaptureStore:
    return MemoryCaptureStore(CaptureLimits(2000, 10_000))


@pytest.fixture
def feed(
    store: MemoryCaptureStore, running: RunningExchanges, monkeypatch: pytest.MonkeyPatch
) -> ExchangeFeed:
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 0.0)
    return ExchangeFeed(store, running)  # type: ignore[arg-type]


def put_record(store: MemoryCaptureStore, name: str, **fields: Any) -> str:
    summary = json.dumps({"id": name, "request_id": "r", "duration_ms": 1.0, **fields})
    store.put(name, f'{{"exchange":{summary},\n"client":{{}}}}\n'.encode())
    return name


def read_changes(follower: ExchangeFollower) -> list[tuple[str, str]]:
    return [(change.name, describe(change)) for change in follower.read_changes()]


def describe(change: Change) -> str:
    if change.summary is None:
        return "gone"
    return "running" if change.summary.get("running") else "finished"


def test_exchange_is_reported_while_it_runs_and_when_it_ends(
    feed: ExchangeFeed, store: MemoryCaptureStore, running: RunningExchanges
) -> None:
    follower = ExchangeFollower(feed, time.time())
    assert read_changes(follower) == []
    name = running.begin()
    assert read_changes(follower) == [(name, "running")]
    assert follower.running_names == [name]
    assert read_changes(follower) == []

    running.summaries[name] = {**running.summaries[name], "model": "m"}
    assert read_changes(follower) == [(name, "running")]

    del running.summaries[name]
    put_record(store, name)
    assert read_changes(follower) == [(name, "finished")]
    assert read_changes(follower) == []


def test_exchange_that_is_running_and_stored_is_finished(
    feed: ExchangeFeed, store: MemoryCaptureStore, running: RunningExchanges
) -> None:
    follower = ExchangeFollower(feed, time.time())
    read_changes(follower)
    name = put_record(store, running.begin())

    assert read_changes(follower) == [(name, "finished")]
    assert read_changes(follower) == []


def test_exchange_without_a_record_disappears_after_some_polls(
    feed: ExchangeFeed, running: RunningExchanges
) -> None:
    follower = ExchangeFollower(feed, time.time())
    name = running.begin()
    read_changes(follower)
    summary = running.summaries.pop(name)
    assert read_changes(follower) == []
    running.summaries[name] = summary  # another worker was late
    assert read_changes(follower) == []
    running.summaries.clear()

    reported = [read_changes(follower) for _ in range(feed_module.MISSED_POLLS + 1)]

    assert reported == [[]] * (feed_module.MISSED_POLLS - 1) + [[(name, "gone")], []]


def test_record_that_is_stored_late_is_found(
    feed: ExchangeFeed, store: MemoryCaptureStore, running: RunningExchanges
) -> None:
    follower = ExchangeFollower(feed, time.time())
    name = running.begin()
    read_changes(follower)
    running.summaries.clear()
    assert read_changes(follower) == []
    put_record(store, name)

    assert read_changes(follower) == [(name, "finished")]


def test_reconnected_follower_gets_exchanges_that_ended_since(
    feed: ExchangeFeed, store: MemoryCaptureStore, running: RunningExchanges
) -> None:
    now = time.time()
    old = put_record(store, generate_name(now - 100), duration_ms=1000.0)
    long_exchange = put_record(store, generate_name(now - 100), duration_ms=99_000.0)
    new = put_record(store, generate_name(now - 10))
    other = running.begin(age=50)

    changes = read_changes(ExchangeFollower(feed, now - 20))

    assert old not in dict(changes)
    assert sorted(changes) == sorted(
        [(long_exchange, "finished"), (new, "finished"), (other, "running")]
    )


def test_exchange_older_than_all_that_are_followed_is_reported_at_its_end(
    feed: ExchangeFeed,
    store: MemoryCaptureStore,
    running: RunningExchanges,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "MAX_FOLLOWED", 3)
    follower = ExchangeFollower(feed, time.time())
    name = running.begin(age=100)
    read_changes(follower)
    for _ in range(5):
        put_record(store, generate_name(time.time()))
    read_changes(follower)
    running.summaries.clear()
    put_record(store, name)

    assert read_changes(follower) == [(name, "finished")]
    assert read_changes(follower) == []


def test_followers_share_one_poll_of_the_store(
    store: MemoryCaptureStore, running: RunningExchanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "POLL_SECONDS", 1000.0)
    feed = ExchangeFeed(store, running)  # type: ignore[arg-type]
    first = feed.read_state()
    put_record(store, generate_name(time.time()))

    assert feed.read_state() is first


def test_cached_summaries_are_limited(
    feed: ExchangeFeed, store: MemoryCaptureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "MAX_CACHED_SUMMARIES", 4)
    names = [put_record(store, generate_name(time.time() + number)) for number in range(10)]

    assert [each["id"] for each in feed.read_summaries(names)] == names
    assert len(feed._summaries) == 4
