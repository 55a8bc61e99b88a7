"""Circuit breaker: stops calling an upstream that keeps failing, for a while.

    closed      Every request passes. Consecutive failures, or a high share of failures, open it.
                Failures that the request itself may have caused count once two clients had some.
    open        No request passes until the cool-down ends.
    half_open   One trial request passes and decides the next state; others are refused.

Two libraries were evaluated: one serializes all calls under a lock, the other lets all requests
pass when half open.  Neither suits thousands of concurrent requests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from math import inf

from forwarder.upstream.resilience.classify import Outcome

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half_open"
STATES = (CLOSED, HALF_OPEN, OPEN)
"""The states, best first."""

MIN_ANSWERS_FOR_SHARE = 20
"""With fewer answers in the window, their share of failures is not significant."""

_WINDOW_SLICES = 10


class CircuitBreaker:
    """The breaker of one upstream.

    It opens after ``failures`` consecutive failures, or if the share of failures among the answers
    of the last ``window`` seconds reaches ``share``; 0 disables the respective rule.  ``cooldown``
    is in seconds.  ``on_change`` is called with each new state.  ``term`` increases with each
    change of the state.
    """

    def __init__(
        self,
        failures: int,
        share: float,
        window: float,
        cooldown: float,
        on_change: Callable[[str], None] = lambda state: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures or inf
        self._share = share or inf
        self._cooldown = cooldown
        self._on_change = on_change
        self._now = now
        self._lock = threading.Lock()
        self._state = CLOSED
        self._changed_at = -inf  # when it opened, or when the trial request passed
        self._consecutive_failures = FailureCount()
        self._window = FailureWindow(window, now)
        self.term = 0

    @property
    def state(self) -> str:
        """The state that the next request would meet."""
        is_over = self._state == OPEN and self.remaining_cooldown <= 0
        return HALF_OPEN if is_over else self._state

    @property
    def remaining_cooldown(self) -> float:
        """Seconds until a request may pass; 0 if one may pass now."""
        return max(0.0, self._changed_at + self._cooldown - self._now())

    def admit_request(self) -> bool:
        """Admit a request unless the breaker is open; return whether it may pass.

        After the cool-down the first request is the trial request: the breaker becomes half open.
        """
        with self._lock:
            if self._state == CLOSED:
                return True
            if self.remaining_cooldown > 0:
                return False
            self._changed_at = self._now()
            if self._state == OPEN:
                self._change_state(HALF_OPEN)
            return True

    def open_for(self, seconds: float) -> None:
        """Open for ``seconds``, because another process has opened its breaker of this upstream.

        A running trial request goes on, and a longer cool-down remains.
        """
        with self._lock:
            is_trial_running = self._state == HALF_OPEN and self.remaining_cooldown > 0
            if is_trial_running or seconds <= self.remaining_cooldown:
                return
            self._changed_at = self._now() - self._cooldown + min(seconds, self._cooldown)
            if self._state != OPEN:
                self._change_state(OPEN)

    def record_outcome(self, term: int, outcome: Outcome, client: str = "") -> None:
        """Record the outcome of a call that began in ``term``; ignored if that term is over.

        ``client`` identifies the client of an ``AMBIGUOUS_FAILURE``.
        """
        with self._lock:
            if term != self.term:
                return
            if outcome is Outcome.UNKNOWN:
                if self._state == HALF_OPEN:
                    self._changed_at = -inf  # permits another trial request
                return
            self._window.record(outcome, client)
            if outcome is Outcome.SUCCESS:
                self._record_success()
            else:
                self._consecutive_failures.record(outcome, client)
                self._record_failure()

    def _record_success(self) -> None:
        self._consecutive_failures = FailureCount()
        if self._state == HALF_OPEN:
            self._changed_at = -inf
            self._window.clear()
            self._change_state(CLOSED)

    def _record_failure(self) -> None:
        has_failed_often = (
            self._consecutive_failures.count() >= self._failures
            or self._window.compute_failure_share() >= self._share
        )
        if has_failed_often or self._state == HALF_OPEN:
            self._changed_at = self._now()
            self._change_state(OPEN)

    def _change_state(self, state: str) -> None:
        self._state = state
        self.term += 1
        self._on_change(state)


class FailureCount:
    """Counts failures; ambiguous failures count only once two clients had some."""

    def __init__(self) -> None:
        self._failures = self._ambiguous_failures = 0
        self._clients: set[str] = set()

    def record(self, outcome: Outcome, client: str) -> None:
        if outcome is Outcome.FAILURE:
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
    """The outcomes of the calls that ended within one slice of time."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.successes = 0
        self.failures = FailureCount()


class FailureWindow:
    """Counts the outcomes of the last ``window`` seconds in slices of time."""

    def __init__(self, window: float, now: Callable[[], float]) -> None:
        self._slice_seconds = window / _WINDOW_SLICES
        self._now = now
        self._slices: deque[TimeSlice] = deque()

    def record(self, outcome: Outcome, client: str = "") -> None:
        """Count a call that has ended."""
        current = self._current_slice()
        if not self._slices or self._slices[-1].number != current:
            self._drop_expired()
            self._slices.append(TimeSlice(current))
        if outcome is Outcome.SUCCESS:
            self._slices[-1].successes += 1
        else:
            self._slices[-1].failures.record(outcome, client)

    def compute_failure_share(self) -> float:
        """Return the share of failures; 0 if there are too few calls."""
        self._drop_expired()
        failures = FailureCount()
        for each in self._slices:
            failures.merge(each.failures)
        failed = failures.count()
        ended = failed + sum(each.successes for each in self._slices)
        return failed / ended if ended >= MIN_ANSWERS_FOR_SHARE else 0.0

    def clear(self) -> None:
        """Forget all outcomes."""
        self._slices.clear()

    def _drop_expired(self) -> None:
        while self._slices and self._slices[0].number <= self._current_slice() - _WINDOW_SLICES:
            self._slices.popleft()

    def _current_slice(self) -> int:
        return int(self._now() / self._slice_seconds)
