"""What keeps a backend of the forwarder's own (store, Redis) from holding up requests.

A backend that is down refuses at once; one that hangs answers nothing at all, and every request
that asks it would wait for a time-out.  Hence requests wait for a backend only a moment, and a
breaker remembers that it does not answer; trials run beside the requests and close it again.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

from forwarder.core.concurrency import TaskResult, spawn

T = TypeVar("T")

MAX_WAIT_SECONDS = 0.07
"""Seconds that a request waits for a backend that it could do without."""

_POLL_SECONDS = 0.01

_jitter = random.Random()
"""Its own generator: a thread that goes on must not disturb a program that seeds the shared one."""


class BackendDown(Exception):
    """The backend does not answer; ``str`` of it says what is known of the reason."""


def wait_for_event(event: threading.Event, seconds: float) -> bool:
    """Wait for an event, and tell whether it has come.

    Waits in ticks: between two of them the loop handles what has arrived, so that an answer that
    lay there while the process was busy with other requests is not taken for a missing one.
    """
    for _ in range(max(1, round(seconds / _POLL_SECONDS))):
        if event.wait(_POLL_SECONDS):
            return True
    return event.is_set()


class SharedTask:
    """Work that runs beside requests, once for all that want it at the same time."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._ended.set()
        self._is_late = False

    def run(self, seconds: float) -> bool:
        """Start it unless it runs, and wait for it; False when it has not ended in that time.

        While a run is late, no other caller waits for it.
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
        self._is_late = self._is_late or ended is self._ended
        return False

    def _run_work(self, ended: threading.Event) -> None:
        try:
            self._work()
        finally:
            ended.set()


class BackendBreaker:
    """Open while a backend does not answer; trials beside the requests close it.

    ``trial`` raises while the backend does not answer.  The first one runs at once, the others
    ``pause`` seconds apart, until one succeeds or ``stop`` is set.  ``changed`` is told the error
    when the breaker opens, and ``None`` before it closes; ``describe`` gives the public description
    of an exception of the trial.
    """

    def __init__(
        self,
        trial: Callable[[], object],
        changed: Callable[[str | None], object] = lambda error: None,
        describe: Callable[[Exception], str] = str,
        pause: float = 1.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._trial = trial
        self._on_change = changed
        self._describe = describe
        self._pause = pause
        self._stop = stop or threading.Event()
        self._lock = threading.Lock()
        self.error: str | None = None

    @property
    def is_open(self) -> bool:
        """Does the backend not answer, as far as is known?"""
        return self.error is not None

    def trip(self, error: str) -> None:
        """Open it; ``error`` says what the backend did."""
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
                self._stop.wait(self._pause * _jitter.uniform(0.8, 1.2))  # not all workers at once
                continue
            self.error = None
            return


class BoundedBackend:
    """Calls to a backend, of which none keeps its request waiting once the backend hangs.

    A call runs beside its request, which waits as long as the backend answers anything: many
    calls at once wait for each other, and that is no failure.  When ``max_wait`` seconds go by
    without an answer to any call, the breaker opens.  ``failures`` are the exceptions of a backend
    that is down.
    """

    def __init__(
        self,
        breaker: BackendBreaker,
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
        """What the work gives, or raises; raises BackendDown while the backend does not answer."""
        if self._breaker.error is not None:
            raise BackendDown(self._breaker.error)
        call = BackendCall(work)
        spawn(partial(self._run_call, call))
        self._wait_for_call(call)
        assert call.outcome is not None
        try:
            return call.outcome.unwrap()
        except self._failures as error:
            raise self._open_breaker(self._describe(error)) from error

    def _run_call(self, call: BackendCall[T]) -> None:
        call.outcome = TaskResult(call.work)
        self._answer_count += 1
        call.ended.set()

    def _wait_for_call(self, call: BackendCall[T]) -> None:
        answered, silent = self._answer_count, 0
        while not call.ended.wait(_POLL_SECONDS):
            if self._breaker.error is not None:
                raise BackendDown(self._breaker.error)
            silent = silent + 1 if answered == self._answer_count else 0
            answered = self._answer_count
            if silent >= self._max_silent_polls:
                raise self._open_breaker(
                    f"no answer within {self._max_silent_polls * _POLL_SECONDS * 1000:.0f} ms"
                )

    def _open_breaker(self, error: str) -> BackendDown:
        self._breaker.trip(error)
        return BackendDown(error)


class BackendCall(Generic[T]):
    """A call under way, and its outcome once it has ended."""

    def __init__(self, work: Callable[[], T]) -> None:
        self.work = work
        self.ended = threading.Event()
        self.outcome: TaskResult[T] | None = None
