"""How long to wait before the next attempt, and whether to wait at all."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

FIRST = 0.5
"""Seconds before the first retry; each further one waits twice as long as the one before."""

LONGEST = 8.0
"""Seconds that a retry waits at most, unless the upstream wants more."""

JITTER = 0.5
"""The share of a pause that is left to chance, so that those who failed together come apart.  What
the upstream wants is never shortened by it, only lengthened a little."""


class Pauses:
    """The pauses of one request: at most so many, and so many seconds in all."""

    def __init__(
        self, most: int, seconds: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._most = most
        self._left = seconds
        self._chance = chance
        self._taken = 0

    def next(self, wanted: float | None) -> float | None:
        """Seconds until the next attempt, or ``None``: no more attempts.

        ``wanted`` is what the upstream asks for.  It is never asked again sooner than that; when
        that would take too long, it is not asked again.
        """
        if self._taken >= self._most:
            return None
        pause = wanted if wanted is not None else min(FIRST * 2.0**self._taken, LONGEST)
        if pause > self._left:
            return None
        spread = JITTER * self._chance()
        pause += spread * FIRST if wanted is not None else -spread * pause
        self._taken += 1
        self._left -= pause
        return pause


def wanted(headers: Mapping[str, str], now: Callable[[], float] = time.time) -> float | None:
    """The seconds that an upstream's ``retry-after-ms`` or ``retry-after`` asks for.

    ``None`` when it asks for nothing, or for what is no time to come.
    """
    seconds = _number(headers.get("retry-after-ms"), 1000)
    if seconds is None:
        seconds = _number(headers.get("retry-after"), 1)
    if seconds is None:
        seconds = _until(headers.get("retry-after"), now)
    return seconds if seconds is not None and seconds > 0 else None


def _number(text: str | None, unit: int) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number / unit


def _until(text: str | None, now: Callable[[], float]) -> float | None:
    try:
        return parsedate_to_datetime(text or "").timestamp() - now()
    except (ValueError, OverflowError):
        return None
