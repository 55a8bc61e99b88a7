"""A time-out for waits that come by the thousand."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

import gevent
from greenlet import greenlet


class DeadlineTimer:
    """A limit for each of many short waits, with one timer for them all.

    A timer for every wait, as sockets have it, is a fifth of what it costs to wait and read.  This
    one rings when the time of some earlier wait is over, and is set anew for the present one.
    """

    def __init__(self) -> None:
        self._deadline = self._fires_at = inf
        self._waiter: greenlet | None = None
        self._timer: Any = None

    def start_wait(self, seconds: float) -> None:
        """The current greenlet is going to wait; after ``seconds`` that ends in TimeoutError."""
        self._waiter = gevent.getcurrent()
        self._deadline = monotonic() + seconds
        if self._deadline < self._fires_at:
            self._start_timer(seconds)

    def end_wait(self) -> None:
        """The wait is over."""
        self._waiter = None

    def close(self) -> None:
        """Must be called in the end."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._fires_at = inf

    def _start_timer(self, seconds: float) -> None:
        self.close()
        self._fires_at = monotonic() + seconds
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._fire)

    def _fire(self) -> None:
        left = self._deadline - monotonic()
        self.close()
        if self._waiter is not None:
            if left > 0:
                self._start_timer(left)
            else:
                self._waiter.throw(TimeoutError("Nothing came in time."))
