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

_TICK = 0.1
"""Seconds between two looks at what is still running."""

_AGAIN = 0.5
"""Seconds after which one who was interrupted and still waits is interrupted once more."""


class Stopping(BaseException):
    """Thrown into whoever waits for an upstream while the process ends.

    No Exception: neither the SDK nor anyone else who tries again may take it for a failure.
    """


class Run:
    """One exchange under way, in the greenlet that began it.

    ``stream`` is the generator that makes its answer, once there is one: while that is suspended,
    the client is being written to, and must not be interrupted in the middle of an event.
    ``grace`` is how many seconds it has to end when the process is about to go, at most until
    `Running.stop`; ``None`` is until then.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.grace = grace
        self.stream: Any = None
        self._greenlet: Any = None if _in_thread() else gevent.getcurrent()
        self._told = float("-inf")

    def interrupt(self) -> None:
        """Wake it with Stopping if it waits for its upstream.  To be called in the hub."""
        now = time.monotonic()
        if self._is_writing() or now < self._told + _AGAIN:
            return
        self._told = now
        if self._greenlet is not None:
            self._greenlet.throw(Stopping())

    @property
    def is_dead(self) -> bool:
        """Has its greenlet ended without leaving?  Nothing can wake it then."""
        return bool(getattr(self._greenlet, "dead", False))

    def _is_writing(self) -> bool:
        return self.stream is not None and not self.stream.gi_running


def _in_thread() -> bool:
    """In a thread of the system: a greenlet that outlives its thread is a crash to come."""
    return (
        not monkey.is_module_patched("threading")
        and threading.current_thread() is not threading.main_thread()
    )


class Running:
    """All exchanges of a process."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._stopped = False
        self._left_at: float | None = None
        self._listeners: set[Callable[[], None]] = set()

    def __len__(self) -> int:
        self._drop_dead()
        return len(self._runs)

    @property
    def is_leaving(self) -> bool:
        """Is the process about to go?"""
        return self._left_at is not None

    def enter(self, grace: float | None = None) -> Run:
        """One more exchange, until `leave`.  Raises ShuttingDown when it is too late for any."""
        if self._stopped:
            raise ShuttingDown
        run = Run(grace)
        self._runs.add(run)
        return run

    def leave(self, run: Run) -> None:
        """It has ended."""
        self._runs.discard(run)

    @contextmanager
    def listening(self, listener: Callable[[], None]) -> Iterator[None]:
        """While in here, ``listener`` is called when the process is about to go."""
        self._listeners.add(listener)
        if self.is_leaving:
            listener()
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def announce(self) -> None:
        """The process is about to go; what runs may end, and nothing new should begin."""
        if self._left_at is None:
            self._left_at = time.monotonic()
            gevent.spawn(self._interrupt_early)
        for listener in list(self._listeners):
            listener()

    def stop(self) -> None:
        """Interrupt whatever runs, and let nothing begin; returns when all have ended.

        That holds for exchanges with a longer grace of their own, too: gunicorn is about to kill
        the process, and they could not be handed back then.
        """
        self._stopped = True
        while len(self):
            self._interrupt_due()

    def is_due(self, run: Run) -> bool:
        """Is its grace over?"""
        if self._stopped or run.grace is None or self._left_at is None:
            return self._stopped
        return time.monotonic() - self._left_at >= run.grace

    def _interrupt_early(self) -> None:
        """Interrupt exchanges whose own grace is over before all others are stopped."""
        while not self._stopped:
            self._interrupt_due()

    def _interrupt_due(self) -> None:
        for run in filter(self.is_due, list(self._runs)):
            get_hub().loop.run_callback(self._interrupt, run)
        gevent.sleep(_TICK)

    def _drop_dead(self) -> None:
        """A run whose greenlet is dead would keep the process for ever."""
        for run in list(self._runs):
            if run.is_dead:
                self._runs.discard(run)

    def _interrupt(self, run: Run) -> None:
        if run in self._runs:  # it may have ended since
            run.interrupt()
