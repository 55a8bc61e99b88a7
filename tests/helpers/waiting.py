"""Waiting for asynchronous events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.03


def wait_until(read: Callable[[], T], seconds: float = 15.0) -> T:
    """Return the first true value of ``read``; fails after ``seconds`` without one."""
    deadline = time.monotonic() + seconds
    while not (value := read()):
        assert time.monotonic() < deadline, "this did not happen in time"
        time.sleep(POLL_SECONDS)
    return value
