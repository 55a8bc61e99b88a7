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

from forwarder.upstream.resilience.classify import Outcome

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"

MIN_ANSWERS_FOR_SHARE = 20
"""Answers within the window below which their share of failures says nothing."""

_WINDOW_SLICES = 10


class CircuitBreaker:
    """The breaker of one upstream.

    ``failures`` in a row open it, or a ``compute_failure_share`` of failures among the answers of the last
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
        self._on_change = changed
        self._now = now
        self._lock = threading.Lock()
        self._state = CLOSED
        self._changed_at = -inf  # when it opened or, half open, when a request was let through
        self._consecutive_failures = FailureCount()
        self._window = FailureWindow(window, now)
        self.term = 0

    @property
    def state(self) -> str:
        """The state as the next request would find it."""
        is_over = self._state == OPEN and self.remaining_cooldown <= 0
        return HALF_OPEN if is_over else self._state

    @property
    def remaining_cooldown(self) -> float:
        """Seconds until a request may pass, 0 when one may."""
        return max(0.0, self._changed_at + self._cooldown - self._now())

    def allow_request(self) -> bool:
        """May a request pass?  The one that may when half open is on probation for all."""
        with self._lock:
            if self._state == CLOSED:
                return True
            if self.remaining_cooldown > 0:
                return False
            self._changed_at = self._now()
            if self._state == OPEN:
                self._change_state(HALF_OPEN)
            return True

    def record_outcome(self, term: int, verdict: Outcome, client: str = "") -> None:
        """What became of a call that began in ``term``; later than that it says nothing.

        ``client`` tells apart the clients that met a failure of the kind ``FAILED``.
        """
        with self._lock:
            if term != self.term:
                return
            if verdict is Outcome.UNKNOWN:
                if self._state == HALF_OPEN:
                    self._changed_at = -inf  # another may try
                return
            self._window.record(verdict, client)
            if verdict is Outcome.SUCCESS:
                self._record_success()
            else:
                self._consecutive_failures.record(verdict, client)
                self._record_failure()

    def _record_success(self) -> None:
        self._consecutive_failures = FailureCount()
        if self._state == HALF_OPEN:
            self._changed_at = -inf
            self._window.clear()
            self._change_state(CLOSED)

    def _record_failure(self) -> None:
        many = (
            self._consecutive_failures.count() >= self._failures
            or self._window.compute_failure_share() >= self._share
        )
        if many or self._state == HALF_OPEN:
            self._changed_at = self._now()
            self._change_state(OPEN)

    def _change_state(self, state: str) -> None:
        self._state = state
        self.term += 1
        self._on_change(state)


class FailureCount:
    """Counts failures; those that a request may have caused only once two clients met some."""

    def __init__(self) -> None:
        self._failures = self._ambiguous_failures = 0
        self._clients: set[str] = set()

    def record(self, verdict: Outcome, client: str) -> None:
        if verdict is Outcome.FAILURE:
            self._failures += 1
            return
        self._ambiguous_failures += 1
        if len(self._clients) < 2:
            self._clients.add(client)

    def merge(self, other: FailureCount) -> None:
        self._failures += other._failures
        self._ambiguous_failures += other._ambiguous_failures
        self._clients |= other._clients

    def count(self) -> int:
        return self._failures + (self._ambiguous_failures if len(self._clients) > 1 else 0)


class TimeSlice:
    """What became of the calls that ended within one slice of time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.successes = 0
        self.failures = FailureCount()


class FailureWindow:
    """How many calls of the last so many seconds failed, counted by slices of that time."""

    def __init__(self, window: float, now: Callable[[], float]) -> None:
        self._slice_seconds = window / _WINDOW_SLICES
        self._now = now
        self._slices: deque[TimeSlice] = deque()

    def record(self, verdict: Outcome, client: str = "") -> None:
        """A call has ended."""
        current = self._current_slice()
        if not self._slices or self._slices[-1].number != current:
            self._drop_expired()
            self._slices.append(TimeSlice(current))
        if verdict is Outcome.SUCCESS:
            self._slices[-1].successes += 1
        else:
            self._slices[-1].failures.record(verdict, client)

    def compute_failure_share(self) -> float:
        """The share of failures; 0 when there are not enough calls to tell."""
        self._drop_expired()
        failures = FailureCount()
        for each in self._slices:
            failures.merge(each.failures)
        failed = failures.count()
        ended = failed + sum(each.successes for each in self._slices)
        return failed / ended if ended >= MIN_ANSWERS_FOR_SHARE else 0.0

    def clear(self) -> None:
        """Begin anew."""
        self._slices.clear()

    def _drop_expired(self) -> None:
        while self._slices and self._slices[0].number <= self._current_slice() - _WINDOW_SLICES:
            self._slices.popleft()

    def _current_slice(self) -> int:
        return int(self._now() / self._slice_seconds)
