"""Writes that wait for each other are one transaction, which costs hardly more than one of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from forwarder.core.concurrency import Aside, Outcome

T = TypeVar("T")
Work = Callable[[sa.Connection], T]

_AT_ONCE = 50
"""How many are one transaction at the most: writers of other processes wait for its end."""


class Group:
    """Does works one after the other; ``transact`` does one in a transaction of its own.

    Who comes while others are at it leaves its work in a queue, and the next does all that is
    there.  Should one of them fail, none counts, and each is done again by itself: a work must
    have no other effects than those on the database.  A transaction that cannot begin fails for
    all of them.  ``failed`` is told each error before the next transaction begins.
    """

    def __init__(
        self,
        transact: Callable[[Work[Any]], Any],
        failed: Callable[[BaseException], object] = lambda error: None,
    ) -> None:
        self._transact = transact
        self._failed = failed
        self._writer = Aside(1)
        self._turn = threading.Lock()
        self._waiting: deque[_Job] = deque()

    def do(self, work: Work[T]) -> T:
        """What the work gives, or raises."""
        job = _Job(work)
        self._waiting.append(job)
        with self._turn:
            while job.outcome is None:
                self._writer.do(self._drain)
            if job.outcome.error is not None:
                self._failed(job.outcome.error)
        time.sleep(0)  # who writes again at once would have the turn before any who waits for it
        given: T = job.outcome.given()
        return given

    def alone(self, work: Callable[[], T]) -> T:
        """The same of what is no transaction."""
        return self._writer.do(work)

    def _drain(self) -> None:
        jobs = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
        if len(jobs) == 1 or not self._done_as_one(jobs):
            for job in jobs:
                job.outcome = Outcome(partial(self._transact, job.work))

    def _done_as_one(self, jobs: list[_Job]) -> bool:
        has_begun = False

        def work_together(connection: sa.Connection) -> list[Any]:
            nonlocal has_begun
            has_begun = True
            return [job.work(connection) for job in jobs]

        try:
            given = self._transact(work_together)
        except BaseException as error:
            if has_begun:  # whoever caused it hears of it when it is alone
                return False
            for job in jobs:  # each would wait for a locked file again, one after the other
                job.outcome = Outcome(partial(_raise, error))
            return True
        for job, done in zip(jobs, given, strict=True):
            job.outcome = Outcome(partial(_same, done))
        return True


class _Job:
    """A work that waits to be done, and what came of it."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work
        self.outcome: Outcome[Any] | None = None


def _same(value: T) -> T:
    return value


def _raise(error: BaseException) -> Any:
    raise error
