"""Writes that wait for each other are one transaction, which costs hardly more than one of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from forwarder.core.concurrency import BlockingPool, TaskResult

T = TypeVar("T")
DatabaseWork = Callable[[sa.Connection], T]

MAX_BATCH_SIZE = 50
"""How many are one transaction at the most: writers of other processes wait for its end."""


class WriteBatcher:
    """Does works one after the other; ``transact`` does one in a transaction of its own.

    Who comes while others are at it leaves its work in a queue, and the next does all that is
    there.  Should one of them fail, none counts, and each is done again by itself: a work must
    have no other effects than those on the database.  A transaction that cannot begin fails for
    all of them.  ``on_error`` is told each error before the next transaction begins.
    """

    def __init__(
        self,
        transact: Callable[[DatabaseWork[Any]], Any],
        on_error: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._transact = transact
        self._on_error = on_error
        self._writer = BlockingPool(1)
        self._turn_lock = threading.Lock()
        self._queue: deque[QueuedWrite] = deque()

    def run_in_batch(self, work: DatabaseWork[T]) -> T:
        """What the work gives, or raises."""
        job = QueuedWrite(work)
        self._queue.append(job)
        with self._turn_lock:
            while job.outcome is None:
                self._writer.run(self._run_batch)
            if job.outcome.error is not None:
                self._on_error(job.outcome.error)
        time.sleep(0)  # who writes again at once would have the turn before any who waits for it
        given: T = job.outcome.unwrap()
        return given

    def run_alone(self, work: Callable[[], T]) -> T:
        """The same of what is no transaction."""
        return self._writer.run(work)

    def _run_batch(self) -> None:
        jobs = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH_SIZE))]
        if len(jobs) == 1 or not self._run_as_one(jobs):
            for job in jobs:
                job.outcome = TaskResult(partial(self._transact, job.work))

    def _run_as_one(self, jobs: list[QueuedWrite]) -> bool:
        has_begun = False

        def run_together(connection: sa.Connection) -> list[Any]:
            nonlocal has_begun
            has_begun = True
            return [job.work(connection) for job in jobs]

        try:
            given = self._transact(run_together)
        except BaseException as error:
            if has_begun:  # whoever caused it hears of it when it is alone
                return False
            for job in jobs:  # each would wait for a locked file again, one after the other
                job.outcome = TaskResult(partial(raise_error, error))
            return True
        for job, done in zip(jobs, given, strict=True):
            job.outcome = TaskResult(partial(return_value, done))
        return True


class QueuedWrite:
    """A work that waits to be done, and what came of it."""

    def __init__(self, work: DatabaseWork[Any]) -> None:
        self.work = work
        self.outcome: TaskResult[Any] | None = None


def return_value(value: T) -> T:
    return value


def raise_error(error: BaseException) -> Any:
    raise error
