"""Tracks the requests in flight, so that a shutdown can end them properly.

A deploy or a restart gives running answers some time.  Answers that are incomplete after this time
are interrupted while they wait for their upstream.  Their clients get an error in their own
protocol instead of a cut connection.  Under threads (development) this is not used.  The steps of a
worker that shuts down are in `server/gunicorn_worker.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import get_hub, monkey

from forwarder.core.errors import ShuttingDown

_POLL_SECONDS = 0.1
"""Seconds between two checks of the running requests."""

_INTERRUPT_INTERVAL_SECONDS = 0.5
"""Seconds after which a request that still waits is interrupted again."""


class ShutdownInterrupt(BaseException):
    """Thrown into greenlets that wait for an upstream while the process shuts down.

    It is not an Exception, so that neither the SDK nor retry code treats it as a failure.
    """


class InFlightRequest:
    """One request in flight, in the greenlet that started it.

    ``stream`` is the generator of its answer, once it exists.  While the generator is suspended,
    the server writes to the client and must not be interrupted in the middle of an event.
    ``grace`` is the time in seconds that the request has to end after shutdown is announced;
    ``None`` means until `InFlightRequests.stop`.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.grace = grace
        self.stream: Any = None
        self._greenlet: Any = None if is_in_thread() else gevent.getcurrent()
        self._interrupted_at = float("-inf")

    def interrupt(self) -> None:
        """Throw ShutdownInterrupt into it if it waits for its upstream.  Call this in the hub."""
        now = time.monotonic()
        if self._is_writing() or now < self._interrupted_at + _INTERRUPT_INTERVAL_SECONDS:
            return
        self._interrupted_at = now
        if self._greenlet is not None:
            self._greenlet.throw(ShutdownInterrupt())

    @property
    def is_dead(self) -> bool:
        """Whether its greenlet has ended without `remove_request`."""
        return bool(getattr(self._greenlet, "dead", False))

    def _is_writing(self) -> bool:
        return self.stream is not None and not self.stream.gi_running


def is_in_thread() -> bool:
    """Return whether this is a native thread; greenlets must not outlive their thread."""
    return (
        not monkey.is_module_patched("threading")
        and threading.current_thread() is not threading.main_thread()
    )


class InFlightRequests:
    """All requests in flight of a process."""

    def __init__(self) -> None:
        self._requests: set[InFlightRequest] = set()
        self._is_stopped = False
        self._announced_at: float | None = None
        self._listeners: set[Callable[[], None]] = set()

    def __len__(self) -> int:
        self._drop_dead()
        return len(self._requests)

    @property
    def is_shutting_down(self) -> bool:
        """Whether shutdown has been announced."""
        return self._announced_at is not None

    def add_request(self, grace: float | None = None) -> InFlightRequest:
        """Add a request until `remove_request`.  Raises ShuttingDown after `stop`."""
        if self._is_stopped:
            raise ShuttingDown
        run = InFlightRequest(grace)
        self._requests.add(run)
        return run

    def remove_request(self, run: InFlightRequest) -> None:
        """Remove a request that has ended."""
        self._requests.discard(run)

    @contextmanager
    def add_listener(self, listener: Callable[[], None]) -> Iterator[None]:
        """Context manager: call ``listener`` if shutdown is announced inside it."""
        self._listeners.add(listener)
        if self.is_shutting_down:
            listener()
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def announce(self) -> None:
        """Announce the shutdown: running requests may end, and no new ones should begin."""
        if self._announced_at is None:
            self._announced_at = time.monotonic()
            gevent.spawn(self._interrupt_early)
        for listener in list(self._listeners):
            listener()

    def stop(self) -> None:
        """Interrupt all requests and refuse new ones; return when all have ended.

        This includes requests with a longer grace of their own: gunicorn is about to kill the
        process, and after that they could not be handed over.
        """
        self._is_stopped = True
        while len(self):
            self._interrupt_due()

    def is_due(self, run: InFlightRequest) -> bool:
        """Return whether the grace of a request is over."""
        if self._is_stopped or run.grace is None or self._announced_at is None:
            return self._is_stopped
        return time.monotonic() - self._announced_at >= run.grace

    def _interrupt_early(self) -> None:
        """Interrupt requests whose own grace ends before `stop`."""
        while not self._is_stopped:
            self._interrupt_due()

    def _interrupt_due(self) -> None:
        for run in filter(self.is_due, list(self._requests)):
            get_hub().loop.run_callback(self._interrupt, run)
        gevent.sleep(_POLL_SECONDS)

    def _drop_dead(self) -> None:
        """Remove requests whose greenlet is dead; they would keep the process alive forever."""
        for run in list(self._requests):
            if run.is_dead:
                self._requests.discard(run)

    def _interrupt(self, run: InFlightRequest) -> None:
        if run in self._requests:  # it may have ended since
            run.interrupt()
