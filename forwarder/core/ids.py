"""Source of ids and times, injected into the translators so that they stay pure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple


def generate_id(prefix: str) -> str:
    """Return ``prefix``, an underscore and 128 random bits in hex."""
    return f"{prefix}_{os.urandom(16).hex()}"


def format_timestamp(seconds: float | None = None) -> str:
    """Return Unix seconds, or now, as UTC in RFC 3339 format: ``2026-01-31T23:59:59.123456Z``."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


class IdSource(NamedTuple):
    """Functions that create ids and read clocks.

    ``new_id("msg")`` returns ``msg_`` and 32 random hex digits, ``now()`` Unix seconds,
    ``timestamp()`` the time as RFC 3339 text, and ``monotonic_ns()`` nanoseconds of a monotonic
    clock.
    """

    new_id: Callable[[str], str]
    now: Callable[[], int]
    timestamp: Callable[[], str] = format_timestamp
    monotonic_ns: Callable[[], int] = time.monotonic_ns


ID_SOURCE = IdSource(new_id=generate_id, now=lambda: int(time.time()))
