"""Retry budget of an upstream, which prevents retry storms.

If all requests fail, retries multiply the load of an upstream that is already in trouble.  So
requests earn retries: one per five requests, and a few per minute under low traffic.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RETRIES_PER_REQUEST = 0.2
"""Retries that each request earns."""

RETRIES_PER_SECOND = 0.5
"""Retries that each second earns, whether there are requests or not."""

MAX_SAVED_RETRIES = 10.0
"""Retries that can be saved up."""


class RetryBudget:
    """A token bucket of retries."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._saved = MAX_SAVED_RETRIES
        self._filled_at = now()

    def earn(self) -> None:
        """Add the share of a retry that a new request earns."""
        with self._lock:
            self._add_retries(RETRIES_PER_REQUEST)

    def spend(self) -> bool:
        """Take one retry; return False if the budget is empty."""
        with self._lock:
            now = self._now()
            self._add_retries((now - self._filled_at) * RETRIES_PER_SECOND)
            self._filled_at = now
            if self._saved < 1:
                return False
            self._saved -= 1
            return True

    def _add_retries(self, more: float) -> None:
        self._saved = min(MAX_SAVED_RETRIES, self._saved + more)
