"""Combine concurrent writes into one transaction, which takes hardly longer than a single write."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from forwarder.core.blocking_work import BlockingPool, TaskResult

T = TypeVar("T")
DatabaseWork = Callable[[sa.Connection], T]

MAX_BATCH_SIZE = 50
"""Maximum number of writes per transaction; writers of other processes wait for its end."""


class WriteBatcher:
    """Runs queued writes one after the other; ``transact`` runs a function in a transaction.

    A thread that gets its turn runs all queued writes in one transaction. If one of them fails, the
    transaction is rolled back, and each write is repeated in a transaction of its own. Therefore a
    write must have no effects outside the database. If the transaction cannot begin, all writes
    fail. ``on_error`` receives each error before the next transaction begins.
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
        """Run ``work`` and return its result, or raise its error."""
        job = QueuedWrite(work)
        self._queue.append(job)
        with self._turn_lock:
            while job.outcome is None:
                self._writer.run(self._run_batch)
            if job.outcome.error is not None:
                self._on_error(job.outcome.error)
        time.sleep(0)  # let waiting writers run before this one writes again
        result: T = job.outcome.unwrap()
        return result

    def run_alone(self, work: Callable[[], T]) -> T:
        """Run a function that is not a transaction."""
        return self._writer.run(work)

    def close(self) -> None:
        """End the thread that writes."""
        self._writer.close()

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
            results = self._transact(run_together)
        except BaseException as error:
            if has_begun:  # the repeated single writes show which one failed
                return False
            for job in jobs:  # retrying each would wait for a locked file again and again
                job.outcome = TaskResult(partial(raise_error, error))
            return True
        for job, result in zip(jobs, results, strict=True):
            job.outcome = TaskResult(partial(return_value, result))
        return True


class QueuedWrite:
    """A queued write and its result."""

    def __init__(self, work: DatabaseWork[Any]) -> None:
        self.work = work
        self.outcome: TaskResult[Any] | None = None


def return_value(value: T) -> T:
    return value


def raise_error(error: BaseException) -> Any:
    raise error
