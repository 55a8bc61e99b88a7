"""Circuit breaker for the forwarder's own stores: the database and Redis.

A store that is down refuses connections at once, but one that hangs makes every request wait for
a time-out.  Requests therefore wait only briefly.  A breaker records that the store does not
answer, and background trials close the breaker again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from forwarder.core.blocking_work import TaskResult, spawn

T = TypeVar("T")

MAX_WAIT_SECONDS = 0.07
"""Seconds that a request waits for a store that it can do without."""

_POLL_SECONDS = 0.01

_jitter = random.Random()
"""A separate generator, so that background threads do not disturb a program that seeds `random`."""


class StorageDown(Exception):
    """The store does not answer; the message is the known reason."""


def wait_for_event(event: threading.Event, seconds: float) -> bool:
    """Wait at most ``seconds`` for an event; return whether it is set.

    Polls, so that the event loop can process data that arrived while the process was busy.
    Otherwise an answer that is already in the socket would count as missing.
    """
    for _ in range(max(1, round(seconds / _POLL_SECONDS))):
        if event.wait(_POLL_SECONDS):
            return True
    return event.is_set()


class SharedTask:
    """Background work that concurrent callers share: it runs once for all of them."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._is_late = False

    def run(self, seconds: float) -> bool:
        """Start the work unless it is running, and wait; return whether it ended in time.

        While a run is late, other callers do not wait for it.
        """
        with self._lock:
            if self._ended.is_set():
                self._ended, self._is_late = threading.Event(), False
                spawn(partial(self._run_work, self._ended))
            ended = self._ended
        if self._is_late or seconds <= 0:
            return ended.is_set()
        if wait_for_event(ended, seconds):
            return True
        if ended is self._ended:  # no other run has started since
            self._is_late = True
        return False

    def _run_work(self, ended: threading.Event) -> None:
        try:
            self._work()
        finally:
            ended.set()


class StorageBreaker:
    """Circuit breaker that is open while a store does not answer; background trials close it.

    ``trial`` raises while the store does not answer.  The first trial runs at once, further ones
    ``pause`` seconds apart, until one succeeds or ``stop`` is set.  ``on_change`` receives the
    error when the breaker opens, and ``None`` before it closes.  ``describe`` returns the public
    description of a trial's exception.
    """

    def __init__(
        self,
        trial: Callable[[], object],
        on_change: Callable[[str | None], object] = lambda error: None,
        describe: Callable[[Exception], str] = str,
        pause: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._trial = trial
        self._on_change = on_change
        self._describe = describe
        self._pause = pause
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self.error: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether the store is considered down."""
        return self.error is not None

    def trip(self, error: str) -> None:
        """Open the breaker; ``error`` describes the failure."""
        with self._lock:
            was_open, self.error = self.is_open, error
        if not was_open and not self._stop.is_set():
            self._on_change(error)
            spawn(self._retry_until_up)

    def _retry_until_up(self) -> None:
        while not self._stop.is_set():
            try:
                self._trial()
                self._on_change(None)
            except Exception as error:
                self.error = self._describe(error)
                self._stop.wait(self._pause * _jitter.uniform(0.8, 1.2))  # spread the workers
                continue
            self.error = None
            return


class BoundedStorage:
    """Runs calls to a store so that a hanging store does not block requests.

    Each call runs in the background while its request waits.  Calls may queue behind each other, so
    a request keeps waiting as long as the store answers any call.  If no call is answered for
    ``max_wait`` seconds, the breaker opens.  ``failures`` are the exceptions that mean that the
    store is down.
    """

    def __init__(
        self,
        breaker: StorageBreaker,
        failures: tuple[type[Exception], ...],
        describe: Callable[[Exception], str] = str,
        max_wait: float = MAX_WAIT_SECONDS,
    ) -> None:
        self._breaker = breaker
        self._failures = failures
        self._describe = describe
        self._max_silent_polls = max(1, round(max_wait / _POLL_SECONDS))
        self._answer_count = 0

    def call(self, work: Callable[[], T]) -> T:
        """Run ``work`` and return its result or raise its exception.

        Raises StorageDown while the store does not answer.
        """
        if self._breaker.error is not None:
            raise StorageDown(self._breaker.error)
        call = StorageCall(work)
        spawn(partial(self._run_call, call))
        self._wait_for_call(call)
        assert call.outcome is not None
        try:
            return call.outcome.unwrap()
        except self._failures as error:
            raise self._open_breaker(self._describe(error)) from error

    def _run_call(self, call: StorageCall[T]) -> None:
        call.outcome = TaskResult(call.work)
        self._answer_count += 1
        call.ended.set()

    def _wait_for_call(self, call: StorageCall[T]) -> None:
        answered, silent = self._answer_count, 0
        while not call.ended.wait(_POLL_SECONDS):
            if self._breaker.error is not None:
                raise StorageDown(self._breaker.error)
            silent = silent + 1 if answered == self._answer_count else 0
            answered = self._answer_count
            if silent >= self._max_silent_polls:
                raise self._open_breaker(
                    f"no answer within {self._max_silent_polls * _POLL_SECONDS * 1000:.0f} ms"
                )

    def _open_breaker(self, error: str) -> StorageDown:
        self._breaker.trip(error)
        return StorageDown(error)


class StorageCall(Generic[T]):
    """A running call, and its outcome after it has ended."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.ended = threading.Event()
        self.outcome: TaskResult[T] | None = None
