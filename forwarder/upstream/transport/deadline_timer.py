"""A time-out for waits that come by the thousand."""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

import gevent
from greenlet import greenlet


class Alarm:
    """A limit for each of many short waits, with one timer for them all.

    A timer for every wait, as sockets have it, is a fifth of what it costs to wait and read.  This
    one rings when the time of some earlier wait is over, and is set anew for the present one.
    """

    def __init__(self) -> None:
        self._deadline = self._rings = inf
        self._sleeper: greenlet | None = None
        self._timer: Any = None

    def before(self, seconds: float) -> None:
        """The current greenlet is going to wait; after ``seconds`` that ends in TimeoutError."""
        self._sleeper = gevent.getcurrent()
        self._deadline = monotonic() + seconds
        if self._deadline < self._rings:
            self._set(seconds)

    def after(self) -> None:
        """The wait is over."""
        self._sleeper = None

    def close(self) -> None:
        """Must be called in the end."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
        self._rings = inf

    def _set(self, seconds: float) -> None:
        self.close()
        self._rings = monotonic() + seconds
        self._timer = gevent.get_hub().loop.timer(seconds)
        self._timer.start(self._ring)

    def _ring(self) -> None:
        left = self._deadline - monotonic()
        self.close()
        if self._sleeper is not None:
            if left > 0:
                self._set(left)
            else:
                self._sleeper.throw(TimeoutError("Nothing came in time."))
