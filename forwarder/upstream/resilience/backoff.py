"""How long to wait before the next attempt, and whether to wait at all."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

FIRST_DELAY_SECONDS = 0.5
"""Seconds before the first retry; each further one waits twice as long as the one before."""

MAX_DELAY_SECONDS = 8.0
"""Seconds that a retry waits at most, unless the upstream wants more."""

JITTER_SHARE = 0.5
"""The share of a pause that is left to chance, so that those who failed together come apart.  What
the upstream wants is never shortened by it, only lengthened a little."""


class Backoff:
    """The pauses of one request: at most so many, and so many seconds in all."""

    def __init__(
        self, most: int, seconds: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._max_attempts = most
        self._seconds_left = seconds
        self._chance = chance
        self._attempts = 0

    def next_delay(self, wanted: float | None) -> float | None:
        """Seconds until the next attempt, or ``None``: no more attempts.

        ``parse_retry_after`` is what the upstream asks for.  It is never asked again sooner than that; when
        that would take too long, it is not asked again.
        """
        if self._attempts >= self._max_attempts:
            return None
        pause = (
            wanted
            if wanted is not None
            else min(FIRST_DELAY_SECONDS * 2.0**self._attempts, MAX_DELAY_SECONDS)
        )
        if pause > self._seconds_left:
            return None
        spread = JITTER_SHARE * self._chance()
        pause += spread * FIRST_DELAY_SECONDS if wanted is not None else -spread * pause
        self._attempts += 1
        self._seconds_left -= pause
        return pause


def parse_retry_after(
    headers: Mapping[str, str], now: Callable[[], float] = time.time
) -> float | None:
    """The seconds that an upstream's ``retry-after-ms`` or ``retry-after`` asks for.

    ``None`` when it asks for nothing, or for what is no time to come.
    """
    seconds = parse_seconds(headers.get("retry-after-ms"), 1000)
    if seconds is None:
        seconds = parse_seconds(headers.get("retry-after"), 1)
    if seconds is None:
        seconds = parse_date(headers.get("retry-after"), now)
    return seconds if seconds is not None and seconds > 0 else None


def parse_seconds(text: str | None, unit: int) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number / unit


def parse_date(text: str | None, now: Callable[[], float]) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp() - now()
    except (ValueError, OverflowError):
        return None
