"""Waits for asynchronous events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

MIN_PAUSE_SECONDS = 0.005
MAX_PAUSE_SECONDS = 0.3

PAUSE_SHARE = 0.05
"""Pause relative to the wait so far, so that a long wait does not send a thousand requests."""


def wait_until(read: Callable[[], T], seconds: float = 15.0) -> T:
    """Return the first true value of ``read``; fails after ``seconds`` without one."""
    started = time.monotonic()
    while not (value := read()):
        waited = time.monotonic() - started
        assert waited < seconds, "this did not happen in time"
        time.sleep(min(MAX_PAUSE_SECONDS, max(MIN_PAUSE_SECONDS, waited * PAUSE_SHARE)))
    return value
