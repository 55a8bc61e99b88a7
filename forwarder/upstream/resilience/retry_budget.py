"""What an upstream may be asked again for, so that retries never become a storm.

When everything fails, retries multiply the requests that an upstream in trouble gets.  So requests
earn them: one for every five, and a few a minute where there are hardly any requests.
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
    """A bucket of retries."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._saved = MAX_SAVED_RETRIES
        self._filled_at = now()

    def earn(self) -> None:
        """A request has come."""
        with self._lock:
            self._add_retries(RETRIES_PER_REQUEST)

    def spend(self) -> bool:
        """Take one retry out; False when there is none."""
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
