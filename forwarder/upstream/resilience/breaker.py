"""A circuit breaker: an upstream that keeps failing is left alone for a while.

    closed      every request passes; failures in a row, or too large a share of them, open it;
                failures that a request may have caused count once two clients have met them
    open        nothing passes until the cool-down is over
    half_open   one request passes, and what becomes of it decides; others do not wait for it

The libraries for this were looked at: one makes all calls wait for each other under a lock, the
other lets everybody through when half open.  Neither suits thousands of requests at once.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf

from forwarder.upstream.resilience.classify import Verdict

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

ENOUGH = 20
"""Answers within the window below which their share of failures says nothing."""

_SLICES = 10


class Breaker:
    """The breaker of one upstream.

    ``failures`` in a row open it, or a ``share`` of failures among the answers of the last
    ``window`` seconds; 0 switches off the one, or the other.  ``cooldown`` is in seconds.
    ``changed`` hears of every new state.
    """

    def __init__(
        self,
        failures: int,
        share: float,
        window: float,
        cooldown: float,
        changed: Callable[[str], None] = lambda state: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures or inf
        self._share = share or inf
        self._cooldown = cooldown
        self._changed = changed
        self._now = now
        self._lock = threading.Lock()
        self._state = CLOSED
        self._since = -inf  # when it opened or, half open, when a request was let through
        self._row = _FailureCount()
        self._recent = Recent(window, now)
        self.term = 0

    @property
    def state(self) -> str:
        """The state as the next request would find it."""
        is_over = self._state == OPEN and self.rest <= 0
        return HALF_OPEN if is_over else self._state

    @property
    def rest(self) -> float:
        """Seconds until a request may pass, 0 when one may."""
        return max(0.0, self._since + self._cooldown - self._now())

    def admit(self) -> bool:
        """May a request pass?  The one that may when half open is on probation for all."""
        with self._lock:
            if self._state == CLOSED:
                return True
            if self.rest > 0:
                return False
            self._since = self._now()
            if self._state == OPEN:
                self._turn(HALF_OPEN)
            return True

    def note(self, term: int, verdict: Verdict, client: str = "") -> None:
        """What became of a call that began in ``term``; later than that it says nothing.

        ``client`` tells apart the clients that met a failure of the kind ``FAILED``.
        """
        with self._lock:
            if term != self.term:
                return
            if verdict is Verdict.UNKNOWN:
                if self._state == HALF_OPEN:
                    self._since = -inf  # another may try
                return
            self._recent.add(verdict, client)
            if verdict is Verdict.WELL:
                self._well()
            else:
                self._row.add(verdict, client)
                self._ill()

    def _well(self) -> None:
        self._row = _FailureCount()
        if self._state == HALF_OPEN:
            self._since = -inf
            self._recent.clear()
            self._turn(CLOSED)

    def _ill(self) -> None:
        many = self._row.count() >= self._failures or self._recent.share() >= self._share
        if many or self._state == HALF_OPEN:
            self._since = self._now()
            self._turn(OPEN)

    def _turn(self, state: str) -> None:
        self._state = state
        self.term += 1
        self._changed(state)


class _FailureCount:
    """Counts failures; those that a request may have caused only once two clients met some."""

    def __init__(self) -> None:
        self._ill = self._failed = 0
        self._clients: set[str] = set()

    def add(self, verdict: Verdict, client: str) -> None:
        if verdict is Verdict.ILL:
            self._ill += 1
            return
        self._failed += 1
        if len(self._clients) < 2:
            self._clients.add(client)

    def merge(self, other: _FailureCount) -> None:
        self._ill += other._ill
        self._failed += other._failed
        self._clients |= other._clients

    def count(self) -> int:
        return self._ill + (self._failed if len(self._clients) > 1 else 0)


class _Slice:
    """What became of the calls that ended within one slice of time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.successes = 0
        self.failures = _FailureCount()


class Recent:
    """How many calls of the last so many seconds failed, counted by slices of that time."""

    def __init__(self, window: float, now: Callable[[], float]) -> None:
        self._slice = window / _SLICES
        self._now = now
        self._slices: deque[_Slice] = deque()

    def add(self, verdict: Verdict, client: str = "") -> None:
        """A call has ended."""
        current = self._current()
        if not self._slices or self._slices[-1].number != current:
            self._forget()
            self._slices.append(_Slice(current))
        if verdict is Verdict.WELL:
            self._slices[-1].successes += 1
        else:
            self._slices[-1].failures.add(verdict, client)

    def share(self) -> float:
        """The share of failures; 0 when there are not enough calls to tell."""
        self._forget()
        failures = _FailureCount()
        for each in self._slices:
            failures.merge(each.failures)
        failed = failures.count()
        ended = failed + sum(each.successes for each in self._slices)
        return failed / ended if ended >= ENOUGH else 0.0

    def clear(self) -> None:
        """Begin anew."""
        self._slices.clear()

    def _forget(self) -> None:
        while self._slices and self._slices[0].number <= self._current() - _SLICES:
            self._slices.popleft()

    def _current(self) -> int:
        return int(self._now() / self._slice)
