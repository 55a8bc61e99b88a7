"""The exchanges under way, so that the end of the process can be told to their clients.

A deploy or a restart gives running answers some time.  What is not done by then is interrupted
where it waits for its upstream, and ends as any broken answer does: by an error in the client's
own protocol, never by a cut.  Under threads (development) nobody asks for that.
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
"""Seconds between two looks at what is still running."""

_INTERRUPT_INTERVAL_SECONDS = 0.5
"""Seconds after which one who was interrupted and still waits is interrupted once more."""


class ShutdownInterrupt(BaseException):
    """Thrown into whoever waits for an upstream while the process ends.

    No Exception: neither the SDK nor anyone else who tries again may take it for a failure.
    """


class InFlightRequest:
    """One exchange under way, in the greenlet that began it.

    ``stream`` is the generator that makes its answer, once there is one: while that is suspended,
    the client is being written to, and must not be interrupted in the middle of an event.
    ``grace`` is how many seconds it has to end when the process is about to go, at most until
    `InFlightRequests.stop`; ``None`` is until then.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.grace = grace
        self.stream: Any = None
        self._greenlet: Any = None if is_in_thread() else gevent.getcurrent()
        self._interrupted_at = float("-inf")

    def interrupt(self) -> None:
        """Wake it with Stopping if it waits for its upstream.  To be called in the hub."""
        now = time.monotonic()
        if self._is_writing() or now < self._interrupted_at + _INTERRUPT_INTERVAL_SECONDS:
            return
        self._interrupted_at = now
        if self._greenlet is not None:
            self._greenlet.throw(ShutdownInterrupt())

    @property
    def is_dead(self) -> bool:
        """Has its greenlet ended without leaving?  Nothing can wake it then."""
        return bool(getattr(self._greenlet, "dead", False))

    def _is_writing(self) -> bool:
        return self.stream is not None and not self.stream.gi_running


def is_in_thread() -> bool:
    """In a thread of the system: a greenlet that outlives its thread is a crash to come."""
    return (
        not monkey.is_module_patched("threading")
        and threading.current_thread() is not threading.main_thread()
    )


class InFlightRequests:
    """All exchanges of a process."""

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
        """Is the process about to go?"""
        return self._announced_at is not None

    def add_request(self, grace: float | None = None) -> InFlightRequest:
        """One more exchange, until `remove_request`.  Raises ShuttingDown when it is too late for any."""
        if self._is_stopped:
            raise ShuttingDown
        run = InFlightRequest(grace)
        self._requests.add(run)
        return run

    def remove_request(self, run: InFlightRequest) -> None:
        """It has ended."""
        self._requests.discard(run)

    @contextmanager
    def add_listener(self, listener: Callable[[], None]) -> Iterator[None]:
        """While in here, ``listener`` is called when the process is about to go."""
        self._listeners.add(listener)
        if self.is_shutting_down:
            listener()
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def announce(self) -> None:
        """The process is about to go; what runs may end, and nothing new should begin."""
        if self._announced_at is None:
            self._announced_at = time.monotonic()
            gevent.spawn(self._interrupt_early)
        for listener in list(self._listeners):
            listener()

    def stop(self) -> None:
        """Interrupt whatever runs, and let nothing begin; returns when all have ended.

        That holds for exchanges with a longer grace of their own, too: gunicorn is about to kill
        the process, and they could not be handed back then.
        """
        self._is_stopped = True
        while len(self):
            self._interrupt_due()

    def is_due(self, run: InFlightRequest) -> bool:
        """Is its grace over?"""
        if self._is_stopped or run.grace is None or self._announced_at is None:
            return self._is_stopped
        return time.monotonic() - self._announced_at >= run.grace

    def _interrupt_early(self) -> None:
        """Interrupt exchanges whose own grace is over before all others are stopped."""
        while not self._is_stopped:
            self._interrupt_due()

    def _interrupt_due(self) -> None:
        for run in filter(self.is_due, list(self._requests)):
            get_hub().loop.run_callback(self._interrupt, run)
        gevent.sleep(_POLL_SECONDS)

    def _drop_dead(self) -> None:
        """A run whose greenlet is dead would keep the process for ever."""
        for run in list(self._requests):
            if run.is_dead:
                self._requests.discard(run)

    def _interrupt(self, run: InFlightRequest) -> None:
        if run in self._requests:  # it may have ended since
            run.interrupt()
