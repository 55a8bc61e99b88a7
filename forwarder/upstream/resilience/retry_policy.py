"""Retry policy: which failures to retry, how often, and how long to wait before each retry.

`UpstreamState.run_with_retries` runs the retries of one upstream or endpoint, and `failover.py`
those of an upstream with several. Both also ask the circuit breaker and the retry budget.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

from forwarder.core.error_kinds import ErrorKind
from forwarder.core.errors import (
    ForwarderError,
    UpstreamConnectTimeout,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnreachable,
)

FIRST_DELAY_SECONDS = 0.5
"""Seconds before the first retry; each further retry waits twice as long."""

MAX_DELAY_SECONDS = 8.0
"""Maximum seconds before a retry, unless the upstream demands more."""

JITTER_SHARE = 0.5
"""The random share of a pause, which spreads requests that failed together.  It never shortens a
pause that the upstream demands; it only lengthens it a little."""

_RETRYABLE_STATUSES = frozenset({408, 409, 429})
"""Statuses below 500 that are temporary; the SDK retries the same ones."""


def is_worth_retry(error: ForwarderError) -> bool:
    """Return whether the same upstream may succeed in a moment.

    A request is not retried after a time-out of the first byte: the upstream is still working on
    it, and a second request would be billed too.
    """
    if isinstance(error, UpstreamRefused):
        return is_refusal_worth_retry(error)
    return isinstance(error, UpstreamUnreachable | UpstreamProtocolError | UpstreamConnectTimeout)


def is_refusal_worth_retry(error: UpstreamRefused) -> bool:
    should_retry = error.headers.get("x-should-retry")
    if should_retry in ("true", "false"):
        return should_retry == "true"
    is_temporary = error.status >= 500 or error.status in _RETRYABLE_STATUSES
    return is_temporary and error.kind is not ErrorKind.QUOTA_EXHAUSTED  # waiting does not help


class Backoff:
    """The pauses of one request: at most ``max_retries``, and at most ``seconds`` in total."""

    def __init__(
        self, max_retries: int, seconds: float, chance: Callable[[], float] = random.random
    ) -> None:
        self._max_retries = max_retries
        self._seconds_left = seconds
        self._chance = chance
        self._retries = 0

    def next_delay(self, retry_after: float | None) -> float | None:
        """Return the seconds until the next retry, or ``None`` for no further retry.

        ``retry_after`` is the pause that the upstream demands, in seconds.  A retry is never sent
        earlier; if the pause is too long, there is no retry.
        """
        if self._retries >= self._max_retries:
            return None
        pause = (
            retry_after
            if retry_after is not None
            else min(FIRST_DELAY_SECONDS * 2.0**self._retries, MAX_DELAY_SECONDS)
        )
        if pause > self._seconds_left:
            return None
        spread = JITTER_SHARE * self._chance()
        pause += spread * FIRST_DELAY_SECONDS if retry_after is not None else -spread * pause
        self._retries += 1
        self._seconds_left -= pause
        return pause


def parse_retry_after(
    headers: Mapping[str, str], now: Callable[[], float] = time.time
) -> float | None:
    """Return the seconds in an upstream's ``retry-after-ms`` or ``retry-after`` header.

    ``None`` if both are missing, invalid or in the past.
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
