"""Ids and time, handed to the translators so that they stay pure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple


def generate_id(prefix: str) -> str:
    """``prefix``, an underscore and 128 random bits in hex."""
    return f"{prefix}_{os.urandom(16).hex()}"


def format_timestamp() -> str:
    """The time in UTC, as RFC 3339 has it: ``2026-01-31T23:59:59.123456Z``."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


class IdSource(NamedTuple):
    """Where new ids and the current time come from.

    ``id("msg")`` gives ``msg_`` and 32 unguessable hex digits; ``now()`` gives Unix seconds, and
    ``stamp()`` the time as a text.  ``clock()`` gives nanoseconds since nobody knows when, which
    only grow.
    """

    new_id: Callable[[str], str]
    now: Callable[[], int]
    timestamp: Callable[[], str] = format_timestamp
    monotonic_ns: Callable[[], int] = time.monotonic_ns


ID_SOURCE = IdSource(new_id=generate_id, now=lambda: int(time.time()))
