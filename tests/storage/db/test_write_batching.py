"""Batching of concurrent writes."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa

from forwarder.core.errors import NotFound
from forwarder.storage.db import write_batching
from forwarder.storage.db.database import SqliteDatabase
from forwarder.storage.db.tables import scheduled_jobs
from forwarder.storage.db.write_batching import QueuedWrite, WriteBatcher

Do = Callable[..., Future[Any]]


def insert_name(connection: sa.Connection, name: str) -> str:
    connection.execute(sa.insert(scheduled_jobs).values(name=name, due=0))
    return name


def insert_name_and_fail(connection: sa.Connection, name: str) -> str:
    insert_name(connection, name)
    raise NotFound(name)


def list_names(database: SqliteDatabase) -> list[str]:
    return list(
        database.read(
            lambda c: list(
                c.scalars(sa.select(scheduled_jobs.c.name).order_by(scheduled_jobs.c.name))
            )
        )
    )


@contextmanager
def block_batcher(group: WriteBatcher, count: int) -> Iterator[Do]:
    """Block the batcher until ``count`` more writes, submitted with the yielded function, wait."""
    go, started = threading.Event(), threading.Event()

    def block_batch(connection: object) -> None:
        started.set()
        assert go.wait(10)

    with ThreadPoolExecutor(count + 1) as pool:
        pool.submit(group.run_in_batch, block_batch)
        assert started.wait(10)
        yield lambda work, *arguments: pool.submit(
            group.run_in_batch, lambda c: work(c, *arguments)
        )
        deadline = time.monotonic() + 10
        while len(group._queue) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        go.set()


def test_waiting_writes_share_a_transaction() -> None:
    sizes: list[int] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        done = work(None)
        sizes.append(len(done) if isinstance(done, list) else 1)
        return done

    group = WriteBatcher(transact)
    with block_batcher(group, 7) as submit:
        futures = [submit(lambda _, i: i * i, i) for i in range(7)]

    assert [each.result(5) for each in futures] == [0, 1, 4, 9, 16, 25, 36]
    assert sizes == [1, 7]


def test_batch_size_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_batching, "MAX_BATCH_SIZE", 2)
    transactions: list[None] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        transactions.append(None)
        return work(None)

    group = WriteBatcher(transact)
    with block_batcher(group, 5) as submit:
        futures = [submit(lambda _, i: i, i) for i in range(5)]

    assert [each.result(5) for each in futures] == [0, 1, 2, 3, 4]
    assert len(transactions) == 1 + 3


def test_failing_write_does_not_affect_others(database: SqliteDatabase) -> None:
    with block_batcher(database._write_batcher, 5) as submit:
        futures = [submit(insert_name, name) for name in "abc"]
        failing = submit(insert_name_and_fail, "d")
        twice = submit(insert_name, "a")

    assert sorted([*list_names(database)]) == ["a", "b", "c"]
    assert [each.exception(5) is None for each in futures[1:]] == [True, True]
    assert isinstance(failing.exception(5), NotFound)
    # Of two inserts of one name the first in the queue succeeds; the order is not determined.
    assert [futures[0].exception(5), twice.exception(5)].count(None) == 1


def test_failed_begin_fails_all_waiting_writes() -> None:
    attempts: list[int] = []
    futures: list[str] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        if attempts:
            attempts.append(1)
            raise sqlite3.OperationalError("database is locked")
        attempts.append(1)
        return work(None)

    group = WriteBatcher(transact, lambda error: futures.append(str(error)))
    with block_batcher(group, 5) as submit:
        waiting = [submit(lambda c: None) for _ in range(5)]

    for each in waiting:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            each.result(10)
    assert len(attempts) == 2
    assert futures == ["database is locked"] * 5


def test_failed_write_leaves_no_reference_cycle() -> None:
    def failing(connection: object) -> None:
        raise NotFound("no")

    group = WriteBatcher(lambda work: work(None))
    gc.collect()
    gc.disable()
    try:
        first, second = QueuedWrite(failing), QueuedWrite(lambda _: None)
        group._queue.extend((first, second))
        group._run_batch()
        with suppress(NotFound):
            first.outcome.unwrap()  # type: ignore[union-attr]
        reference = weakref.ref(second)
        del first, second
        assert reference() is None
    finally:
        gc.enable()


INTERRUPTED = """
from gevent import monkey
monkey.patch_all()
import gevent
from forwarder.core.blocking_work import native_sleep
from forwarder.storage.db.write_batching import WriteBatcher

done = []
group = WriteBatcher(lambda work: work(None))
def work(name):
    def slowly(_):
        native_sleep(0.2)
        done.append(name)
        return name
    return slowly
first, second, third = (gevent.spawn(group.run_in_batch, work(name)) for name in "abc")
gevent.sleep(0.05)
first.kill(block=False)  # while it runs, and others wait for it
second.kill(block=False)  # while it waits
print(third.get(timeout=5), sorted(done))
"""


@pytest.mark.live
def test_interrupted_writer_leaves_its_write_queued() -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30
    )
    assert run.stdout == "c ['a', 'b', 'c']\n", run.stderr


REPEATED_WRITER = """
from gevent import monkey
monkey.patch_all()
import gevent
from forwarder.storage.db.write_batching import WriteBatcher

again, results = [], []
group = WriteBatcher(lambda work: work(None))
def hasty():
    while not results and len(again) < 1000:
        again.append(group.run_in_batch(lambda _: None))
def others():
    results.append(group.run_in_batch(lambda _: None))
gevent.joinall([gevent.spawn(work) for work in (hasty, others, others)], timeout=20)
print(len(results), len(again) < 10)
"""


@pytest.mark.live
def test_repeated_writer_does_not_starve_others() -> None:
    run = subprocess.run(
        [sys.executable, "-c", REPEATED_WRITER], capture_output=True, text=True, timeout=30
    )
    assert run.stdout == "2 True\n", run.stderr
