"""A cheap time-out for thousands of short waits."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

import gevent
from greenlet import greenlet


class DeadlineTimer:
    """Limits each of many short waits with a single timer.

    Sockets start a timer for each wait, which takes a fifth of the cost of waiting and reading.
    This timer fires at the deadline of some earlier wait and restarts for the current one.
    """

    def __init__(self) -> None:
        self._deadline = self._fires_at = inf
        self._waiter: greenlet | None = None
        self._timer: Any = None

    def start_wait(self, seconds: float) -> None:
        """Begin a wait of the current greenlet; after ``seconds`` it gets TimeoutError."""
        self._waiter = gevent.getcurrent()
        self._deadline = monotonic() + seconds
        if self._deadline < self._fires_at:
            self._start_timer(seconds)

    def end_wait(self) -> None:
        """End the wait."""
        self._waiter = None

    def close(self) -> None:
        """Stop the timer.  The owner must call this."""
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
