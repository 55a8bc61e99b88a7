"""Writes that wait for each other."""

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


def note(connection: sa.Connection, name: str) -> str:
    connection.execute(sa.insert(scheduled_jobs).values(name=name, due=0))
    return name


def refused(connection: sa.Connection, name: str) -> str:
    note(connection, name)
    raise NotFound(name)


def there(database: SqliteDatabase) -> list[str]:
    return list(
        database.read(
            lambda c: list(
                c.scalars(sa.select(scheduled_jobs.c.name).order_by(scheduled_jobs.c.name))
            )
        )
    )


@contextmanager
def busy(group: WriteBatcher, count: int) -> Iterator[Do]:
    """Somebody is at it, and ``count`` others, who are told what, wait until they all do."""
    go, begun = threading.Event(), threading.Event()

    def first(connection: object) -> None:
        begun.set()
        assert go.wait(10)

    with ThreadPoolExecutor(count + 1) as pool:
        pool.submit(group.run_in_batch, first)
        assert begun.wait(10)
        yield lambda work, *given: pool.submit(group.run_in_batch, lambda c: work(c, *given))
        deadline = time.monotonic() + 10
        while len(group._queue) < count and time.monotonic() < deadline:
            time.sleep(0.001)
        go.set()


def test_those_that_wait_are_done_at_once_and_each_hears_its_own() -> None:
    sizes: list[int] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        done = work(None)
        sizes.append(len(done) if isinstance(done, list) else 1)
        return done

    group = WriteBatcher(transact)
    with busy(group, 7) as do:
        told = [do(lambda _, i: i * i, i) for i in range(7)]

    assert [each.result(5) for each in told] == [0, 1, 4, 9, 16, 25, 36]
    assert sizes == [1, 7]


def test_there_is_an_end_to_what_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_batching, "MAX_BATCH_SIZE", 2)
    transactions: list[None] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        transactions.append(None)
        return work(None)

    group = WriteBatcher(transact)
    with busy(group, 5) as do:
        told = [do(lambda _, i: i, i) for i in range(5)]

    assert [each.result(5) for each in told] == [0, 1, 2, 3, 4]
    assert len(transactions) == 1 + 3


def test_what_fails_takes_nobody_with_it(database: SqliteDatabase) -> None:
    with busy(database._write_batcher, 5) as do:
        told = [do(note, name) for name in "abc"]
        failing = do(refused, "d")
        twice = do(note, "a")

    assert sorted([*there(database)]) == ["a", "b", "c"]
    assert [each.exception(5) is None for each in told[1:]] == [True, True]
    assert isinstance(failing.exception(5), NotFound)
    # Of two of one name the first in the queue is there; which that was is up to the threads.
    assert [told[0].exception(5), twice.exception(5)].count(None) == 1


def test_transaction_that_cannot_begin_is_tried_once_for_all_that_wait() -> None:
    tried: list[int] = []
    told: list[str] = []

    def transact(work: Callable[[Any], Any]) -> Any:
        if tried:
            tried.append(1)
            raise sqlite3.OperationalError("database is locked")
        tried.append(1)
        return work(None)

    group = WriteBatcher(transact, lambda error: told.append(str(error)))
    with busy(group, 5) as do:
        waiting = [do(lambda c: None) for _ in range(5)]

    for each in waiting:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            each.result(10)
    assert len(tried) == 2
    assert told == ["database is locked"] * 5


def test_what_fails_leaves_nothing_to_the_collector() -> None:
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
        gone = weakref.ref(second)
        del first, second
        assert gone() is None
    finally:
        gc.enable()


INTERRUPTED = """
from gevent import monkey
monkey.patch_all()
import gevent
from forwarder.core.concurrency import native_sleep
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
first.kill(block=False)  # in the midst of its work, which others wait behind
second.kill(block=False)  # while it waits
print(third.get(timeout=5), sorted(done))
"""


def test_who_is_interrupted_leaves_its_work_to_the_others() -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=30
    )
    assert run.stdout == "c ['a', 'b', 'c']\n", run.stderr


HASTY = """
from gevent import monkey
monkey.patch_all()
import gevent
from forwarder.storage.db.write_batching import WriteBatcher

again, told = [], []
group = WriteBatcher(lambda work: work(None))
def hasty():
    while not told and len(again) < 1000:
        again.append(group.run_in_batch(lambda _: None))
def others():
    told.append(group.run_in_batch(lambda _: None))
gevent.joinall([gevent.spawn(work) for work in (hasty, others, others)], timeout=20)
print(len(told), len(again) < 10)
"""


def test_who_writes_again_and_again_lets_others_have_their_turn() -> None:
    run = subprocess.run([sys.executable, "-c", HASTY], capture_output=True, text=True, timeout=30)
    assert run.stdout == "2 True\n", run.stderr
