"""Usage is added up by hour, client, model and upstream."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from forwarder.config.parsers import Price
from forwarder.storage.db import usage
from forwarder.storage.db.database import Database, SqliteDatabase
from forwarder.storage.db.retention import Pruner
from forwarder.storage.db.usage import UsageCounts, UsageKey, UsageQuery, UsageSum
from forwarder.usage.store import MemoryUsageStore
from tests.helpers.check_cases import check_each

HOUR = 3600
DAY = 24 * HOUR
START = 20_000 * DAY
ONE = UsageCounts(*range(1, 12))
ROWS = [
    (UsageKey(START, "alice", "m", "up"), ONE),
    (UsageKey(START, "bob", "m", "up"), ONE),
    (UsageKey(START + HOUR, "alice", "m", "up"), ONE),
    (UsageKey(START + HOUR, "alice", "n", "spare"), ONE),
    (UsageKey(START + DAY, "alice", "m", "up"), ONE),
]


def multiply(counts: UsageCounts, times: int) -> UsageCounts:
    return UsageCounts(*(count * times for count in counts))


def add(database: Database, rows: list[tuple[UsageKey, UsageCounts]]) -> None:
    database.write(lambda c: usage.add_counts(c, rows))


def read_sums(database: Database, query: UsageQuery, limit: int = 100) -> list[UsageSum]:
    return database.read(lambda c: usage.sum_counts(c, query, limit))


@contextmanager
def temporary_database() -> Iterator[SqliteDatabase]:
    with TemporaryDirectory() as folder:
        database = SqliteDatabase(Path(folder) / "state.db")
        yield database
        database.close()


def test_counts_are_added_up_by_group(any_database: Database) -> None:
    add(any_database, ROWS)
    everything = (START, START + 2 * DAY)
    for group, expected in {
        (): {(): 5},
        ("client",): {("alice",): 4, ("bob",): 1},
        ("hour",): {(START,): 2, (START + HOUR,): 2, (START + DAY,): 1},
        ("day",): {(START,): 4, (START + DAY,): 1},
        ("day", "model"): {(START, "m"): 3, (START, "n"): 1, (START + DAY, "m"): 1},
        ("upstream",): {("spare",): 1, ("up",): 4},
    }.items():
        assert read_sums(any_database, UsageQuery(*everything, group)) == [
            UsageSum(key, multiply(ONE, times)) for key, times in expected.items()
        ]


PRICES = {("m", "up"): Price(2.0, 1.0, 10.0), ("m", "elsewhere"): Price(7.0, 7.0, 7.0)}


@check_each(
    "query",
    [
        UsageQuery(START, START + 2 * DAY, ()),
        UsageQuery(START, START + 2 * DAY, ("hour", "client")),
        UsageQuery(START, START + 2 * DAY, ("day", "model", "upstream"), "alice"),
        UsageQuery(START, START + 2 * DAY, ("model",), largest_first=True),
        UsageQuery(START, START + 2 * DAY, ("client", "upstream"), largest_first=True),
        UsageQuery(0, 10, ("client",)),
    ],
)
def test_costs_are_like_those_of_the_store_in_memory(query: UsageQuery) -> None:
    memory = MemoryUsageStore(None)
    uneven_counts = UsageCounts(requests=1, input_tokens=3, cached_tokens=9)
    rows = [*ROWS, (UsageKey(START, "carol", "m", "up"), uneven_counts)]
    memory.add_counts(rows)
    for prices in ({}, PRICES):
        expected = memory.sum_costs(query, prices, 100)
        with temporary_database() as database:
            add(database, rows)
            sums = database.read(partial(usage.sum_costs, query=query, prices=prices, limit=100))
            first = database.read(partial(usage.sum_costs, query=query, prices=prices, limit=1))

        assert [each._replace(cost=None) for each in sums] == [
            each._replace(cost=None) for each in expected
        ]
        assert [each.cost for each in sums] == pytest.approx([each.cost for each in expected])
        assert first == sums[:1]


def test_costs_are_those_of_models_with_a_price(any_database: Database) -> None:
    add(any_database, ROWS)
    query = UsageQuery(START, START + 2 * DAY, ("upstream",), largest_first=True)
    priced, unpriced = any_database.read(
        partial(usage.sum_costs, query=query, prices=PRICES, limit=9)
    )

    # ONE has 5 input tokens, 6 cached ones and 7 output tokens.
    assert priced == (("up",), multiply(ONE, 4), pytest.approx(4 * (5 * 1 + 7 * 10) / 1e6), 0)
    assert unpriced == (("spare",), ONE, None, 1)


def test_later_counts_are_added(any_database: Database) -> None:
    for _ in range(3):
        add(any_database, ROWS)

    query = UsageQuery(START, START + HOUR, ("client",))
    assert read_sums(any_database, query) == [
        UsageSum(("alice",), multiply(ONE, 3)),
        UsageSum(("bob",), multiply(ONE, 3)),
    ]


def test_query_has_a_range_a_client_and_a_limit(any_database: Database) -> None:
    add(any_database, ROWS)

    def keys(query: UsageQuery, limit: int = 100) -> list[tuple[int | str, ...]]:
        return [key for key, _ in read_sums(any_database, query, limit)]

    assert keys(UsageQuery(START + HOUR, START + DAY, ("hour",))) == [(START + HOUR,)]
    assert keys(UsageQuery(START, START + DAY, ("model",), "bob")) == [("m",)]
    assert keys(UsageQuery(START, START + DAY, ("hour", "client")), limit=2) == [
        (START, "alice"),
        (START, "bob"),
    ]
    assert keys(UsageQuery(0, 10, ("client",))) == []


def test_concurrent_additions_in_another_order_are_exact(any_database: Database) -> None:
    def add_often(rows: list[tuple[UsageKey, UsageCounts]]) -> None:
        for _ in range(20):
            add(any_database, rows)

    threads = [
        threading.Thread(target=add_often, args=(rows,)) for rows in (ROWS, ROWS[::-1], ROWS[2:])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    total = UsageQuery(START, START + 2 * DAY, ())
    assert read_sums(any_database, total) == [UsageSum((), multiply(ONE, 20 * 13))]


def test_the_largest_counts_fit(any_database: Database) -> None:
    key, largest = UsageKey(START, "alice", "m", "up"), UsageCounts(*[2**53] * 11)
    add(any_database, [(key, largest)])
    add(any_database, [(key, largest)])

    query = UsageQuery(START, START + HOUR, ())
    assert read_sums(any_database, query) == [UsageSum((), UsageCounts(*[2**54] * 11))]


def test_old_hours_are_removed_in_portions(any_database: Database) -> None:
    now = int(time.time()) // HOUR * HOUR
    rows = [
        (UsageKey(now - age * HOUR, client, "m", "up"), ONE)
        for age in range(40)
        for client in ("alice", "bob")
    ]
    add(any_database, rows)
    remove = partial(usage.remove_older, max_age=10.5 * HOUR)

    assert any_database.write(remove) == 2 * usage.MAX_DELETED_HOURS
    while any_database.write(remove):
        pass
    [remaining] = read_sums(any_database, UsageQuery(0, now + HOUR, ()))
    assert remaining.counts.requests in (2 * 10, 2 * 11)  # the test may run over the end of an hour


@check_each(("max_age", "remaining"), [(None, 5), (5 * DAY, 0)])
def test_pruning_removes_old_usage(
    max_age: float | None, remaining: int, database: SqliteDatabase
) -> None:
    add(database, ROWS)
    Pruner(database, None, 2**40, usage_max_age=max_age).prune()

    sums = read_sums(database, UsageQuery(START, START + 2 * DAY, ("hour", "client", "model")))
    assert len(sums) == remaining
    add(database, [(key, multiply(ONE, 0)) for key, _ in ROWS])  # for the next case
